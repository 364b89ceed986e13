-- Every version of `counts` is a recount of `raw`: promise 1 of the design as plain SQL for DuckDB, without our code.
--
-- For the job jobs/web-analytics.toml. The caller has made three views and a variable:
--   raw, counts                     the tables, each at one version
--   lanes(lane, epoch)              the txns `lane/<lane>` of that version of counts; absent = 0
--   SET VARIABLE buckets            the table property `floodmark.buckets` of counts
-- The result is one row per difference; no row means exact. `scripts/recount` runs it on a folder or a URL.
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

-- RFC 3339 or integer milliseconds. upper: it allows small t and z. What can not be read is NULL and so shows as a difference.
CREATE OR REPLACE TEMP MACRO time_us(value, pointer) AS CASE
  WHEN json_type(value, pointer) IN ('UBIGINT', 'BIGINT') THEN json_extract(value, pointer)::BIGINT * 1000
  ELSE epoch_us(TRY_CAST(upper(json_extract_string(value, pointer)) AS TIMESTAMPTZ))
END;

-- A dimension's value: '' where its field is absent or null.
CREATE OR REPLACE TEMP MACRO text(field) AS shorten(coalesce(field, ''));

-- A URL is scheme://[user@]host[:port][/path][?query][#fragment], with a host without white space; else it has no host, and
-- no path. The host is in lower case; the path of a URL that has none is /.
CREATE OR REPLACE TEMP MACRO url_host(url) AS regexp_replace(lower(regexp_replace(regexp_replace(
  regexp_extract(url, '^[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)', 1), '(?s)^.*@', ''), ':[0-9]*$', '')), '(?s)^.*[\p{Z}\p{Cc}].*$', '');
CREATE OR REPLACE TEMP MACRO url_path(url) AS CASE
  WHEN url_host(url) <> '' THEN coalesce(nullif(regexp_extract(url, '^[^:]*://[^/?#]*([^?#]*)', 1), ''), '/')
  ELSE ''
END;

-- width: of a window. grace: how long after its end it takes records as on time; NULL: no lateness, all are of the lane
-- `coarse`. periods: lengths of the partition values allowed. dimensions: counted in it.
CREATE OR REPLACE TEMP TABLE granularities AS FROM (VALUES
  ('minute', INTERVAL 1 minute, 20_000_000,  [7, 10, 13, 15], ['total', 'action', 'country']),
  ('hour',   INTERVAL 1 hour,   60_000_000,  [7, 10, 13],     ['total', 'action', 'country', 'browser', 'os', 'device', 'page', 'referrer']),
  ('day',    INTERVAL 1 day,    300_000_000, [7],             ['total', 'action', 'country', 'browser', 'os', 'device', 'page', 'referrer']),
  ('week',   INTERVAL 7 days,   NULL,        [4],             ['total', 'action', 'country', 'browser', 'os', 'device']),
  ('month',  INTERVAL 1 month,  NULL,        [4],             ['total', 'action', 'country', 'browser', 'os', 'device', 'page', 'referrer']),
  ('year',   INTERVAL 1 year,   NULL,        [4],             ['total', 'action', 'country', 'browser', 'os', 'device'])
) AS t(granularity, width, grace_us, periods, dimensions);

CREATE OR REPLACE TEMP VIEW events AS
WITH texts AS (SELECT *, decode(value) AS json FROM raw WHERE outcome = 'counted'),
counted AS (
  SELECT *, json_transform(json, '{
    "analyticsCustomerId": "VARCHAR", "action": "VARCHAR", "url": "VARCHAR", "referrer": "VARCHAR",
    "userInfo": {"country": "VARCHAR", "browser": "VARCHAR", "os": "VARCHAR", "deviceType": "VARCHAR"}}') AS event
  FROM texts
)
SELECT
  epoch,
  epoch_us(ingested_at) AS ingested_us,
  event.analyticsCustomerId AS customer_id,
  time_us(json, '/dateTimeUtc') AS event_us,
  [ {'dimension': 'total',    'value': ''},
    {'dimension': 'action',   'value': text(event.action)},
    {'dimension': 'country',  'value': text(event.userInfo.country)},
    {'dimension': 'browser',  'value': text(event.userInfo.browser)},
    {'dimension': 'os',       'value': text(event.userInfo.os)},
    {'dimension': 'device',   'value': text(event.userInfo.deviceType)},
    {'dimension': 'page',     'value': text(url_path(event.url))},
    {'dimension': 'referrer', 'value': text(url_host(event.referrer))} ] AS pairs,
  kafka_topic || '/' || kafka_partition || '/' || kafka_offset AS record,
  epoch_us(event_time) AS archived_us
FROM counted;

-- An event's windows (weeks begin on Monday), and the lane that publishes it in each: its granularity's, or `late` when it
-- came after the grace; `coarse` for week, month and year.
CREATE OR REPLACE TEMP VIEW placed AS
SELECT e.*, granularity, dimensions, date_trunc(granularity, make_timestamp(event_us)) AS window_start,
  CASE WHEN grace_us IS NULL THEN 'coarse'
    WHEN ingested_us >= epoch_us(window_start + width) + grace_us THEN 'late'
    ELSE granularity END AS lane
FROM events AS e CROSS JOIN granularities;

CREATE OR REPLACE TEMP VIEW recounted AS
SELECT granularity, customer_id, epoch_us(window_start) AS start_us, d.dimension, d.value AS dimension_value,
  count(*)::BIGINT AS event_count
FROM (
  SELECT granularity, customer_id, window_start, dimensions, unnest(pairs) AS d
  FROM placed LEFT JOIN lanes USING (lane)
  WHERE placed.epoch <= coalesce(lanes.epoch, 0)
)
WHERE list_contains(dimensions, d.dimension)
GROUP BY ALL;

CREATE OR REPLACE TEMP VIEW published AS
SELECT granularity, customer_id, epoch_us(window_start) AS start_us, dimension, dimension_value,
  count(*) AS row_count, sum(event_count)::BIGINT AS event_count
FROM counts
GROUP BY ALL;

CREATE OR REPLACE TEMP VIEW differences AS
-- The recount. A cell that is in one of the two only differs too, so a row that says zero does.
SELECT 'count' AS "check", granularity, customer_id, start_us, dimension, dimension_value,
  p.event_count AS in_counts, r.event_count AS recounted
FROM published AS p FULL JOIN recounted AS r USING (granularity, customer_id, start_us, dimension, dimension_value)
WHERE p.event_count IS DISTINCT FROM r.event_count
UNION ALL
SELECT 'one row per cell', granularity, customer_id, start_us, dimension, dimension_value, row_count, 1
FROM published WHERE row_count > 1
UNION ALL
SELECT unnest(list_filter([
    CASE WHEN epoch_us(window_end) IS DISTINCT FROM epoch_us(make_timestamp(epoch_us(window_start)) + width) THEN 'window_end' END,
    -- A period is a UTC prefix of the window's start, of one of the lengths of its granularity; 2026-01-13T0405 has no colon.
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
FROM differences
ORDER BY ALL;
