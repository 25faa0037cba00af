-- flags that operators have set; all others are the configuration's
CREATE TABLE flags (
    model TEXT NOT NULL,
    -- '' for the flag of the model itself
    version TEXT NOT NULL,
    -- {"enabled": true, "percentage": 1, "cohorts": [...], "otherwise": "v1"}
    flag TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (model, version)
);
