INSERT INTO curiosities (id, label, amount, ratio, at, day, doc, raw, words, bytes, status, uid, span, clock, period, ranges, bits, place) VALUES
(1, 'has a manual of 3 MB that no update touches', 1.10, 0.1, '2024-02-29 12:00:00.000001+00', '2024-02-29', '{"a": [1, 2.50, null]}', '{"a":1,  "a":2}', '{a,b}', '\xdeadbeef', 'new', '00000000-0000-0000-0000-000000000000', '1 mon -1 day 00:00:00.000001', '12:00:00+15:59:59', '[2024-01-01,2025-01-01)', '{[1,3),[5,7)}', B'101', '(1.5,-2.5)'),
(2, 'not a number', 'NaN', 'NaN', 'infinity', 'infinity', 'null', 'null', '{}', '', 'paid', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '178000000 years', '24:00:00-15:59:59', 'empty', '{}', B'', '(NaN,Infinity)'),
(3, 'without end', 'Infinity', 'Infinity', '-infinity', '-infinity', '"text"', '"\ud83c\udf0a"', '{NULL,"NULL",""}', '\x00', 'shipped', 'c0ffee00-1234-5678-9abc-def012345678', '-178000000 years', '00:00:00+00', '(,)', '{(,)}', B'0', '(0,-0)'),
(4, 'without beginning', '-Infinity', '-Infinity', '4714-11-24 00:00:00+00 BC', '4714-11-24 BC', '{}', '{}', '{{1,2},{3,4}}', '\x5c785c30', 'cancelled', NULL, '00:00:00', '12:34:56.789+05:45', '[2024-01-01,infinity]', '{[1,1]}', B'1', '(1e300,1e-300)'),
(5, '', 0, -0, '0044-03-15 12:00:00+00 BC', '0044-03-15 BC', '{"": ""}', ' {} ', '[2:4]={x,y,z}', '\x', 'it''s "complicated", isn''t it', NULL, '1 year', NULL, NULL, NULL, NULL, NULL),
(6, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(7, '🌊 Tide 🌒 mark 👩‍👩‍👧‍👦', 0.000000000000000000000000000001, 5e-324, '294276-12-31 23:59:59.999999+00', '5874897-12-31', '{"emoji": "🌊"}', '"🌊"', '{🌊,"two words","{}"}', '\xf09f8c8a', 'new', NULL, '00:00:00.000001', NULL, NULL, NULL, NULL, NULL),
(8, E'tab\there, line\nbreak, back\\slash, \\N and \\.', 99999999999999999999999999999999999999.999999, 1.7976931348623157e308, '1582-10-10 00:00:00+00', '1582-10-10', '[]', '[]', '{"a\\b","c\"d"}', '\x5c4e', 'new', NULL, '-1 day +23:59:59', NULL, NULL, NULL, NULL, NULL),
(9, E'\\N', 1.0, 1, '1970-01-01 00:00:00+00', '1970-01-01', '1.0', '1.0', '{"\\N"}', '\x0a0d09', 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(10, E'\\.', 1.00, 0.30000000000000004, '2038-01-19 03:14:08+00', '2038-01-19', '1.00', '1e400', '{NULL}', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(11, 'NULL', -1, 2.5, '2000-01-01 00:00:00+00', '2000-01-01', '"NULL"', NULL, '{"NULL"}', NULL, 'new', NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(12, '__debezium_unavailable_value', 12, 12, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(13, 'e' || U&'\0301' || ' is not é', 13, 13, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(14, 'ends in spaces   ', 14, 14, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(15, 'Robert''); DROP TABLE customers; --', 15, 15, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(16, '{"looks": "like json"}', 16, 16, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(17, U&'zero\200Bwidth \FFFD \+10FFFF', 17, 17, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE curiosities SET bytes = (SELECT string_agg(set_byte('\x00', 0, i), '') FROM generate_series(0, 255) i) WHERE id = 11;
UPDATE curiosities SET amount = (repeat('9', 100) || '.' || repeat('7', 100))::numeric WHERE id = 12;
UPDATE curiosities SET manual = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 93750) i) WHERE id = 1;
