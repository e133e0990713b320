-- A row of each table as version 1 writes it, for the test that later versions read them.
INSERT INTO ledger (id, currency, created_at) VALUES (1, 'CNY', 1795953600000);
INSERT INTO account (id, name, created_at, prepaid, granted, topped_up, charged, salt) VALUES ('acc_1', 'anna', 1795953600000, 1, 10, 900, 90, 'abababababababababababababababababababababababababababababababab');
INSERT INTO entry (id, account, time, kind, amount, note) VALUES ('ent_1', 'acc_1', 1795953600000, 'grant', 100, 'welcome');
INSERT INTO entry (id, account, time, kind, amount, note) VALUES ('ent_2', 'acc_1', 1795953600000, 'top_up', 900, '');
INSERT INTO api_key (id, account, name, hash, hint, old_hash, old_until, admin, created_at, expires_at, revoked_at, limits, requests_whole_at, tokens_whole_at, total_tokens, total_cost)
    VALUES ('key_1', 'acc_1', 'laptop', 'be128af7eed20cdbaf1192511d214e8c8f2f3eeeeeab76649b748a6a2cfa7472', 'test', '', 0, 0, 1795953600000, 0, 0, '{"concurrency":3,"tokens":{"day":1000},"money":{"month":5}}', 0, 0, 30, 90);
INSERT INTO invitation (id, name, hash, hint, created_at, expires_at, revoked_at, uses, used, granted, limits) VALUES ('inv_1', 'class', 'none', 'abcd', 1795953600000, 0, 0, 30, 1, 100, '{}');
INSERT INTO server (name, run, seen_at) VALUES ('one', 'run_1', 1795953600000);
INSERT INTO reservation (request, server, run, key, account, endpoint, model, started_at, tokens, cost, price_hit, price_miss, price_output, hit, miss, output, reasoning)
    VALUES ('req_2', 'one', 'run_1', 'key_1', 'acc_1', '/v1/messages', 'pocket', 1795953600000, 40, 50, 1000000, 1000000, 5000000, 0, 10, 4, 0);
INSERT INTO usage (request, time, key, account, endpoint, model, hit, miss, output, reasoning, price_hit, price_miss, price_output, cost, latency_ms, status)
    VALUES ('req_1', 1795953600000, 'key_1', 'acc_1', '/v1/messages', 'pocket', 5, 10, 15, 3, 1000000, 1000000, 5000000, 90, 321, 'done');
INSERT INTO usage_hour (key, account, model, hour, requests, hit, miss, output, reasoning, cost) VALUES ('key_1', 'acc_1', 'pocket', 498876, 1, 5, 10, 15, 3, 90);
INSERT INTO usage_day (key, account, model, day, requests, hit, miss, output, reasoning, cost) VALUES ('key_1', 'acc_1', 'pocket', 20786, 1, 5, 10, 15, 3, 90);
