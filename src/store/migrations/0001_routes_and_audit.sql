CREATE TABLE route_revisions (
    model TEXT NOT NULL,
    revision BIGINT NOT NULL,
    -- {"v1": 95, "v2": 5}, percent
    weights TEXT NOT NULL,
    -- [{"version": "v1", "buckets": 9500}, ...] in the order of the circle
    bucket_runs TEXT NOT NULL,
    -- [{"revision": 1, "version": "v1"}, ...], the next to roll back to last
    rollback_points TEXT NOT NULL,
    created_at TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (model, revision)
);

CREATE TABLE audit (
    id BIGINT NOT NULL PRIMARY KEY,
    at TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    model TEXT NOT NULL,
    detail TEXT,
    reason TEXT
);

CREATE INDEX audit_by_model ON audit (model, id);
