-- What POST requests have created. It is a separate table so that `users` stays as in the guide, and so that a deleted
-- user's key is still known. `key` is a digest of caller and key, `fingerprint` one of the user asked for.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    key TEXT PRIMARY KEY,
    fingerprint BYTEA NOT NULL,
    created_id BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
