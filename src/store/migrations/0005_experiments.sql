CREATE TABLE experiments (
    id BIGINT NOT NULL PRIMARY KEY,
    model TEXT NOT NULL,
    control TEXT NOT NULL,
    treatment TEXT NOT NULL,
    -- JSON: its share of the traffic, its confidence, its name and its end
    terms TEXT NOT NULL,
    started_at TEXT NOT NULL,
    -- who began it, and why
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- NULL while it runs
    ended_at TEXT,
    -- JSON: by whom it was ended, and why
    ending TEXT,
    -- JSON: the differences that were known at its end
    findings TEXT
);

CREATE UNIQUE INDEX one_running_experiment ON experiments (model) WHERE ended_at IS NULL;
CREATE INDEX experiments_by_model ON experiments (model, id);

-- what each comparison goes on from after a restart; gone when the experiment has ended
CREATE TABLE experiment_evidence (
    experiment_id BIGINT NOT NULL REFERENCES experiments (id),
    measure TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    PRIMARY KEY (experiment_id, measure)
);
