CREATE TABLE rollouts (
    id BIGINT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL,
    canary TEXT NOT NULL,
    stable TEXT NOT NULL,
    -- as it was when the rollout began
    policy TEXT NOT NULL,
    -- {"phase": "step", "step": 1, ..., "weight": 5, ...}
    state TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    -- NULL while it runs
    ended_at TEXT,
    -- of the last transition
    actor TEXT NOT NULL,
    reason TEXT NOT NULL
);

CREATE UNIQUE INDEX one_running_rollout ON rollouts (model) WHERE ended_at IS NULL;
CREATE INDEX rollouts_by_model ON rollouts (model, id);

-- only ever added to
CREATE TABLE rollout_transitions (
    rollout_id BIGINT NOT NULL REFERENCES rollouts (id),
    seq BIGINT NOT NULL,
    at TEXT NOT NULL,
    -- such as 'step 2'; NULL for the beginning
    from_state TEXT,
    to_state TEXT NOT NULL,
    -- the canary's, in hundredths of a percent
    from_weight BIGINT NOT NULL,
    to_weight BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (rollout_id, seq)
);

-- what the analysis of one check has seen since the rollout began, a row for each minute that brought something
CREATE TABLE observations (
    rollout_id BIGINT NOT NULL REFERENCES rollouts (id),
    check_name TEXT NOT NULL,
    minute BIGINT NOT NULL,
    at TEXT NOT NULL,
    canary_answers BIGINT NOT NULL,
    canary_failures BIGINT NOT NULL,
    stable_answers BIGINT NOT NULL,
    stable_failures BIGINT NOT NULL,
    -- the analysis whole, to go on from, with the sums of its clusters; only the newest row keeps it
    snapshot TEXT,
    PRIMARY KEY (rollout_id, check_name, minute)
);
