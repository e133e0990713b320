-- SQL that SQLite and PostgreSQL share. Times are milliseconds since 1970 (UTC), days are whole days since then, money is in micro-units; 0 in `*_at` of keys and
-- invitations is "never".

CREATE TABLE ledger (
    id BIGINT PRIMARY KEY,
    currency TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE account (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- 1: requests are paid from the balance; 0: they are only metered.
    prepaid BIGINT NOT NULL,
    granted BIGINT NOT NULL,
    topped_up BIGINT NOT NULL,
    -- What was paid from the balance in all.
    charged BIGINT NOT NULL,
    -- Goes into the hashes of cached prompts.
    salt TEXT NOT NULL
);

-- Every change of a balance that is no charge.
CREATE TABLE entry (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    time BIGINT NOT NULL,
    kind TEXT NOT NULL,
    amount BIGINT NOT NULL,
    note TEXT NOT NULL
);
CREATE INDEX entry_account ON entry (account, time);

CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    -- The secret before the last rotation, and until when it is accepted.
    old_hash TEXT NOT NULL,
    old_until BIGINT NOT NULL,
    admin BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL,
    -- JSON: scopes, rates and budgets.
    limits TEXT NOT NULL,
    -- When the allowance of requests and of tokens is whole again.
    requests_whole_at BIGINT NOT NULL,
    tokens_whole_at BIGINT NOT NULL,
    total_tokens BIGINT NOT NULL,
    total_cost BIGINT NOT NULL
);
CREATE INDEX api_key_account ON api_key (account);
CREATE INDEX api_key_old_hash ON api_key (old_hash);

CREATE TABLE invitation (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL,
    uses BIGINT NOT NULL,
    used BIGINT NOT NULL,
    granted BIGINT NOT NULL,
    limits TEXT NOT NULL
);

-- A process that serves; `run` is new at each start.
CREATE TABLE server (
    name TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- Requests in flight: the most that they may take, and what is known to be delivered.
CREATE TABLE reservation (
    request TEXT PRIMARY KEY,
    server TEXT NOT NULL,
    run TEXT NOT NULL,
    key TEXT NOT NULL,
    account TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    price_hit BIGINT NOT NULL,
    price_miss BIGINT NOT NULL,
    price_output BIGINT NOT NULL,
    hit BIGINT NOT NULL,
    miss BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL
);
CREATE INDEX reservation_account ON reservation (account);
CREATE INDEX reservation_server ON reservation (server);

CREATE TABLE usage (
    request TEXT PRIMARY KEY,
    time BIGINT NOT NULL,
    key TEXT NOT NULL,
    account TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    hit BIGINT NOT NULL,
    miss BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    price_hit BIGINT NOT NULL,
    price_miss BIGINT NOT NULL,
    price_output BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    latency_ms BIGINT NOT NULL,
    status TEXT NOT NULL
);
CREATE INDEX usage_time ON usage (time);
CREATE INDEX usage_key ON usage (key, time);

CREATE TABLE usage_hour (
    key TEXT NOT NULL,
    account TEXT NOT NULL,
    model TEXT NOT NULL,
    hour BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    hit BIGINT NOT NULL,
    miss BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    PRIMARY KEY (key, model, hour)
);
CREATE INDEX usage_hour_hour ON usage_hour (hour);

CREATE TABLE usage_day (
    key TEXT NOT NULL,
    account TEXT NOT NULL,
    model TEXT NOT NULL,
    day BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    hit BIGINT NOT NULL,
    miss BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    cost BIGINT NOT NULL,
    PRIMARY KEY (key, model, day)
);
CREATE INDEX usage_day_day ON usage_day (day);
CREATE INDEX usage_day_account ON usage_day (account);
