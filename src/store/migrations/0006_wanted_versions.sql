-- the version that the configuration wants for a model, as far as it has been acted on
CREATE TABLE wanted_versions (
    model TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    at TEXT NOT NULL
);
