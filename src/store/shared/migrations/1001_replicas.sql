-- what replicas have beside the tables of any store

-- how many changes there have been of what every replica keeps in memory; each is written on top of the one before
CREATE TABLE changes (
    sole BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (sole),
    number BIGINT NOT NULL
);
INSERT INTO changes (number) VALUES (0);

-- who leads
CREATE TABLE lead (
    sole BOOLEAN NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (sole),
    -- counts the leaders
    term BIGINT NOT NULL,
    replica TEXT NOT NULL,
    -- NULL before the first
    since TEXT
);
INSERT INTO lead (term, replica) VALUES (0, '');

-- what replicas saw of answers, on its way to the leader, who deletes it when it has written down what it says
CREATE TABLE parcels (
    -- never given twice, and a higher one is visible later
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model TEXT NOT NULL,
    replica TEXT NOT NULL,
    -- JSON that only the watcher understands
    body TEXT NOT NULL
);

CREATE INDEX parcels_by_model ON parcels (model, id);

-- the last answers of models whose users may have a word about them
CREATE TABLE answers (
    response TEXT NOT NULL PRIMARY KEY,
    -- counts up
    number BIGINT GENERATED ALWAYS AS IDENTITY UNIQUE,
    model TEXT NOT NULL,
    version TEXT NOT NULL,
    -- a hash of the sticky key; NULL where the answer says nothing of the route
    user_key BIGINT,
    at TEXT NOT NULL,
    -- one answer, one word
    rated BOOLEAN NOT NULL
);
