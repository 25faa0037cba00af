-- who wants to hear of what; the configuration's, written anew at each start
CREATE TABLE webhook_subscriptions (
    receiver TEXT NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (receiver, event)
);

-- a row for each receiver of an event, written together with what it tells of
CREATE TABLE webhook_outbox (
    id BIGINT NOT NULL PRIMARY KEY,
    receiver TEXT NOT NULL,
    event TEXT NOT NULL,
    -- the event as JSON
    body TEXT NOT NULL,
    -- when it happened
    created_at TEXT NOT NULL,
    -- 'pending', 'delivered' or 'dead'
    state TEXT NOT NULL,
    -- those that have failed
    attempts BIGINT NOT NULL,
    -- not before, while it is pending
    due_at TEXT NOT NULL,
    -- when it was delivered or given up
    settled_at TEXT,
    last_error TEXT
);

CREATE INDEX webhook_outbox_by_receiver ON webhook_outbox (receiver, state, id);
CREATE INDEX webhook_outbox_by_state ON webhook_outbox (state, id);
