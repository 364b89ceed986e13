-- Every version of `counts` is a recount of `raw`: promise 1 of src/README.md as plain SQL for DuckDB, without our code.
--
-- For the job jobs/web-analytics.toml. The caller has made three views and a variable:
--   raw, counts                     the tables, each at one version
--   lanes(lane, epoch)              the txns `lane/<lane>` of that version of counts; absent = 0
--   SET VARIABLE buckets            the table property `floodmark.buckets` of counts
-- The result is one row per difference, then one for each record that DuckDB can not read as the job does (`left out: …`). Where
-- such a record counts, a cell may have that many events more than were recounted; every other cell, and the sum of every window,
-- must be exact. No row at all means exact. `scripts/recount` runs it on a folder or a URL.
--
-- Times are integers of microseconds since 1970 in here: no rounding, and no time zone of the session.

-- A value of more than 512 bytes stands in counts as its longest prefix of at most 495 bytes, cut between characters,
-- then ~ and 16 digits of its md5. A character has at most 4 bytes: 495 bytes hold 123 to 495 of them.
CREATE OR REPLACE TEMP MACRO shorten(value) AS CASE
  WHEN strlen(value) <= 512 THEN value
  ELSE left(value, list_max(list_filter(range(123, 496), lambda n: strlen(left(value, n)) <= 495)))
    || '~' || md5(value)[1:16]
END;

-- The bucket of a customer is the first 32 bits of its md5 >> (32 − log2 buckets): its share of all there are.
CREATE OR REPLACE TEMP MACRO bucket_of(customer) AS (('0x' || md5(customer)[1:8])::BIGINT * getvariable('buckets')) >> 32;

-- A byte order mark is no part of the JSON. Half a surrogate pair (\ud83d alone) is U+FFFD: once the escaped backslashes are out of the
-- way, whole pairs are set aside, what is left of them is replaced, and they are put back.
CREATE OR REPLACE TEMP MACRO without_mark(text) AS regexp_replace(text, '^\x{FEFF}', '');
CREATE OR REPLACE TEMP MACRO whole_pairs(text) AS replace(regexp_replace(regexp_replace(replace(text, '\\', '\u005c'),
  '\\(u[dD][89abAB]..)\\(u[dD][c-fC-F]..)', chr(1) || '\1' || chr(1) || '\2', 'g'), '\\u[dD][89a-fA-F]..', chr(65533), 'g'), chr(1), '\');

-- An object's members, the last first: of equal keys the last one holds.
CREATE OR REPLACE TEMP MACRO members(json) AS {'keys': list_reverse(json_keys(json)), 'values': list_reverse(json_extract(json, '$.*'))};
CREATE OR REPLACE TEMP MACRO member(object, key) AS object['values'][list_position(object['keys'], key)];

-- A member as text, '' where it is absent or null. A number keeps its text as it is written, but DuckDB writes 1.50 as 1.5 and -0 as 0: so
-- it is looked for in the record. NULL if that text is not certain: the key is escaped, or another object has the same number.
CREATE OR REPLACE TEMP MACRO number_texts(json, key, value) AS list_distinct(list_filter(
  regexp_extract_all(json, '"' || key || '"\s*:\s*(-?[0-9][0-9.eE+-]*)', 1), lambda n: json_extract(n, '$')::VARCHAR = value::VARCHAR));
CREATE OR REPLACE TEMP MACRO text_of(json, object, key) AS CASE
  WHEN json_type(member(object, key)) <> 'DOUBLE' AND member(object, key)::VARCHAR <> '0'
    THEN coalesce(json_extract_string(member(object, key), '$'), '')
  WHEN member(object, key) IS NULL THEN ''
  WHEN len(number_texts(json, key, member(object, key))) = 1 THEN number_texts(json, key, member(object, key))[1]
END;

-- ISO 8601 with its offset, or milliseconds since 1970, as a number or in a string. The leap second :60 is the last µs of its minute.
CREATE OR REPLACE TEMP MACRO iso_parts(text) AS regexp_extract(text,
  '^(\d{4})-?(\d\d)-?(\d\d)[Tt ](\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d+))?)?([Zz]|[+-]\d\d(?::?\d\d)?)$',
  ['year', 'month', 'day', 'hour', 'minute', 'second', 'fraction', 'zone']);
CREATE OR REPLACE TEMP MACRO number(digits) AS coalesce(TRY_CAST(digits AS BIGINT), 0);
CREATE OR REPLACE TEMP MACRO time_us(text, iso) AS CASE
  WHEN iso.year = '' THEN (TRY_CAST(text AS DOUBLE) * 1000)::BIGINT
  ELSE epoch_us(make_timestamp(number(iso.year), number(iso.month), number(iso.day), number(iso.hour), number(iso.minute), 0))
    + least(number(iso.second), 59) * 1_000_000
    + CASE WHEN iso.second = '60' THEN 999_999 ELSE number(rpad(left(iso.fraction, 6), 6, '0')) END
    - CASE WHEN left(iso.zone, 1) = '-' THEN -60_000_000 ELSE 60_000_000 END
      * (number(iso.zone[2:3]) * 60 + number(replace(iso.zone[4:], ':', '')))
END;

-- A URL is scheme://[user@]host[:port][/path][?query][#fragment], with a host without white space; else it has no host, and
-- no path. The host is in lower case; the path of a URL that has none is /.
CREATE OR REPLACE TEMP MACRO url_host(url) AS regexp_replace(lower(regexp_replace(regexp_replace(
  regexp_extract(url, '^[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)', 1), '(?s)^.*@', ''), ':[0-9]*$', '')), '(?s)^.*[\p{Z}\p{Cc}].*$', '');
CREATE OR REPLACE TEMP MACRO url_path(url) AS CASE
  WHEN url_host(url) <> '' THEN coalesce(nullif(regexp_extract(url, '^[^:]*://[^/?#]*([^?#]*)', 1), ''), '/')
  ELSE ''
END;

-- width: of a window. grace: how long after its end it takes records as on time; NULL: no lateness, all are of the lane
-- `coarse`. periods: lengths of the partition values allowed, with those that older tables have. dimensions: counted in it.
CREATE OR REPLACE TEMP TABLE granularities AS FROM (VALUES
  ('minute', INTERVAL 1 minute, 20_000_000,  [7, 10, 13, 15], ['total', 'action', 'country']),
  ('hour',   INTERVAL 1 hour,   60_000_000,  [7, 10, 13],     ['total', 'action', 'country', 'browser', 'os', 'device', 'page', 'referrer']),
  ('day',    INTERVAL 1 day,    300_000_000, [7, 10],         ['total', 'action', 'country', 'browser', 'os', 'device', 'page', 'referrer']),
  ('week',   INTERVAL 7 days,   NULL,        [4, 10],         ['total', 'action', 'country', 'browser', 'os', 'device']),
  ('month',  INTERVAL 1 month,  NULL,        [4, 7],          ['total', 'action', 'country', 'browser', 'os', 'device', 'page', 'referrer']),
  ('year',   INTERVAL 1 year,   NULL,        [4],             ['total', 'action', 'country', 'browser', 'os', 'device'])
) AS t(granularity, width, grace_us, periods, dimensions);

-- Every counted record, read once. `left_out`: why it can not be read as the job reads it.
CREATE OR REPLACE TEMP TABLE events AS
WITH texts AS (SELECT *, without_mark(TRY(decode(value))) AS text FROM raw WHERE outcome = 'counted'),
objects AS (
  SELECT *, CASE WHEN json_valid(text) THEN text WHEN json_valid(whole_pairs(text)) THEN whole_pairs(text) END AS json,
    members(json) AS event, members(member(event, 'userInfo')) AS visitor,
    json_extract_string(member(event, 'dateTimeUtc'), '$') AS time, text_of(json, event, 'action') AS action,
    text_of(json, visitor, 'country') AS country, text_of(json, visitor, 'browser') AS browser,
    text_of(json, visitor, 'os') AS os, text_of(json, visitor, 'deviceType') AS device
  FROM texts
)
SELECT
  epoch,
  epoch_us(ingested_at) AS ingested_us,
  json_extract_string(member(event, 'analyticsCustomerId'), '$') AS customer_id, -- NULL: of a record that can not be read
  CASE WHEN json IS NULL THEN epoch_us(event_time) ELSE time_us(time, iso_parts(time)) END AS event_us,
  [ {'dimension': 'total',    'value': ''},
    {'dimension': 'action',   'value': shorten(action)},
    {'dimension': 'country',  'value': shorten(country)},
    {'dimension': 'browser',  'value': shorten(browser)},
    {'dimension': 'os',       'value': shorten(os)},
    {'dimension': 'device',   'value': shorten(device)},
    {'dimension': 'page',     'value': shorten(url_path(coalesce(text_of(json, event, 'url'), '')))},
    {'dimension': 'referrer', 'value': shorten(url_host(coalesce(text_of(json, event, 'referrer'), '')))} ] AS pairs,
  kafka_topic || '/' || kafka_partition || '/' || kafka_offset AS record,
  epoch_us(event_time) AS archived_us,
  CASE WHEN text IS NULL THEN 'bytes that are not UTF-8'
    WHEN json IS NULL THEN 'JSON that DuckDB can not read'
    WHEN action IS NULL OR country IS NULL OR browser IS NULL OR os IS NULL OR device IS NULL THEN 'a number whose text is not certain'
  END AS left_out
FROM objects;

-- An event's windows (weeks begin on Monday), and the lane that publishes it in each: its granularity's, or `late` when it
-- came after the grace; `coarse` for week, month and year. Only what that lane has published counts.
CREATE OR REPLACE TEMP VIEW placed AS
SELECT p.*
FROM (
  SELECT e.*, granularity, dimensions, epoch_us(date_trunc(granularity, make_timestamp(event_us))) AS start_us,
    CASE WHEN grace_us IS NULL THEN 'coarse'
      WHEN ingested_us >= epoch_us(make_timestamp(start_us) + width) + grace_us THEN 'late'
      ELSE granularity END AS lane
  FROM events AS e CROSS JOIN granularities
) AS p LEFT JOIN lanes USING (lane)
WHERE p.epoch <= coalesce(lanes.epoch, 0);

CREATE OR REPLACE TEMP VIEW recounted AS
SELECT granularity, customer_id, start_us, d.dimension, d.value AS dimension_value, count(*)::BIGINT AS event_count
FROM (SELECT granularity, customer_id, start_us, dimensions, unnest(pairs) AS d FROM placed WHERE left_out IS NULL)
WHERE list_contains(dimensions, d.dimension)
GROUP BY ALL;

CREATE OR REPLACE TEMP VIEW published AS
SELECT granularity, customer_id, epoch_us(window_start) AS start_us, dimension, dimension_value,
  count(*) AS row_count, sum(event_count)::BIGINT AS event_count
FROM counts
GROUP BY ALL;

-- Events that are left out, by window and customer; whose they are is not known (NULL) where the record can not be read at all.
CREATE OR REPLACE TEMP VIEW beside AS
SELECT granularity, start_us, customer_id AS of_customer, count(*) AS events FROM placed WHERE left_out IS NOT NULL GROUP BY ALL;

CREATE OR REPLACE TEMP VIEW cells AS
SELECT c.*, coalesce((SELECT sum(events) FROM beside AS b WHERE b.granularity = c.granularity AND b.start_us = c.start_us
  AND coalesce(b.of_customer, c.customer_id) = c.customer_id), 0) AS left_out
FROM (
  SELECT granularity, customer_id, start_us, dimension, dimension_value, p.event_count AS in_counts, r.event_count AS recounted
  FROM published AS p FULL JOIN recounted AS r USING (granularity, customer_id, start_us, dimension, dimension_value)
) AS c;

CREATE OR REPLACE TEMP VIEW differences AS
-- The recount. A cell that is in one of the two only differs too, so a row that says zero does.
SELECT 'count' AS "check", granularity, customer_id, start_us, dimension, dimension_value, in_counts, recounted
FROM cells
WHERE in_counts IS DISTINCT FROM recounted AND NOT coalesce(in_counts - coalesce(recounted, 0) BETWEEN 1 AND left_out, false)
UNION ALL
-- What is left out is somewhere in its window, once in each dimension.
SELECT 'sum of a window', granularity, NULL, start_us, dimension, NULL,
  coalesce(sum(in_counts), 0)::BIGINT AS published, (coalesce(sum(recounted), 0) + any_value(events))::BIGINT AS expected
FROM (SELECT granularity, start_us, sum(events) AS events FROM beside GROUP BY ALL)
  JOIN (SELECT granularity, unnest(dimensions) AS dimension FROM granularities) USING (granularity)
  LEFT JOIN cells USING (granularity, start_us, dimension)
GROUP BY granularity, start_us, dimension HAVING published <> expected
UNION ALL
SELECT 'one row per cell', granularity, customer_id, start_us, dimension, dimension_value, row_count, 1
FROM published WHERE row_count > 1
UNION ALL
SELECT unnest(list_filter([
    CASE WHEN epoch_us(window_end) IS DISTINCT FROM epoch_us(make_timestamp(epoch_us(window_start)) + width) THEN 'window_end' END,
    -- A period is a UTC prefix of the window's start, of one of the lengths of its granularity; 2026-01-13T0405 has no colon.
    -- The day of a week is its Monday.
    CASE WHEN period IS DISTINCT FROM left(strftime(make_timestamp(epoch_us(window_start)), '%Y-%m-%dT%H%M'), length(period))
      OR NOT list_contains(periods, length(period)) THEN 'period' END,
    CASE WHEN bucket IS DISTINCT FROM bucket_of(customer_id) THEN 'bucket' END],
    lambda failed: failed IS NOT NULL)),
  granularity, customer_id, epoch_us(window_start), dimension, dimension_value, event_count, NULL
FROM counts LEFT JOIN granularities USING (granularity)
UNION ALL
SELECT 'raw holds a record once', NULL, NULL, NULL, NULL, kafka_topic || '/' || kafka_partition || '/' || kafka_offset, count(*), 1
FROM raw GROUP BY kafka_topic, kafka_partition, kafka_offset HAVING count(*) > 1
UNION ALL
-- Readers of raw prune by event_time, and lateness stands on one ingested_at per epoch.
SELECT 'event_time in raw', NULL, customer_id, event_us, NULL, record, archived_us, event_us
FROM events WHERE archived_us IS DISTINCT FROM event_us
UNION ALL
SELECT 'one ingested_at per epoch', NULL, NULL, NULL, NULL, 'epoch ' || epoch, count(DISTINCT ingested_at), 1
FROM raw GROUP BY epoch HAVING count(DISTINCT ingested_at) > 1;

SELECT "check", granularity, customer_id, make_timestamptz(start_us) AS window_start, dimension, dimension_value, in_counts, recounted
FROM (
  FROM differences
  UNION ALL
  SELECT 'left out: ' || left_out, NULL, customer_id, archived_us, NULL, record, NULL, NULL FROM events WHERE left_out IS NOT NULL
)
ORDER BY starts_with("check", 'left out: '), 1, 2, 3, 4, 5, 6;
