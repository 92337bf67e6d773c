-- What POST requests have created. A table of its own: `users` stays as the guide made it, and a deleted user's key is
-- still known. The key is a digest of caller and key, and the fingerprint one of what was asked for.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key TEXT PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    created_id BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
