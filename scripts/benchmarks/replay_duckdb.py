"""The question of a replay, asked of DuckDB: which cells would change if `country` were found elsewhere. A process of its own.

Arguments: the tables' folder, a folder for the result, threads. It takes the event time from raw's own column and the outcome as it
was on arrival, which a replay does not; and it does nothing that could be taken up after a kill, published or undone.
"""

import sys

from tables import connect

tables, out, threads = sys.argv[1:]
db = connect()
db.execute(f"SET threads = {threads}")
db.execute(
    f"""
    COPY (
    WITH event AS (
      SELECT json_extract_string(decode(value),
          ['/analyticsCustomerId', '/action', '/userInfo/locale', '/url']) AS found, event_time AS time
      FROM delta_scan('{tables}/raw') WHERE outcome = 'counted'),
    minute AS (
      SELECT found[1] AS customer_id, date_trunc('minute', time) AS start, coalesce(found[2], '') AS action,
        coalesce(found[3], '') AS country,
        coalesce(nullif(regexp_extract(found[4], '^[^:]*://[^/?#]*([^?#]*)', 1), ''), if(found[4] LIKE '%://%', '/', '')) AS page
      FROM event),
    minutes AS (
      SELECT customer_id, 'total' AS dimension, '' AS value, start, count(*) AS n FROM minute GROUP BY ALL
      UNION ALL SELECT customer_id, 'action', action, start, count(*) FROM minute GROUP BY ALL
      UNION ALL SELECT customer_id, 'country', country, start, count(*) FROM minute GROUP BY ALL),
    hours AS (
      SELECT customer_id, dimension, value, date_trunc('hour', start) AS start, sum(n) AS n FROM minutes GROUP BY ALL
      UNION ALL SELECT customer_id, 'page', page, date_trunc('hour', start), count(*) FROM minute GROUP BY ALL),
    days AS (
      SELECT customer_id, dimension, value, date_trunc('day', start) AS start, sum(n) AS n FROM hours GROUP BY ALL),
    recounted AS (
      SELECT 'minute' AS granularity, * FROM minutes UNION ALL SELECT 'hour', * FROM hours UNION ALL SELECT 'day', * FROM days
      UNION ALL SELECT 'week', customer_id, dimension, value, date_trunc('week', start) AS start, sum(n) FROM days GROUP BY ALL
      UNION ALL SELECT 'month', customer_id, dimension, value, date_trunc('month', start) AS start, sum(n) FROM days GROUP BY ALL
      UNION ALL SELECT 'year', customer_id, dimension, value, date_trunc('year', start) AS start, sum(n) FROM days GROUP BY ALL),
    present AS (
      SELECT granularity, customer_id, dimension, dimension_value AS value, window_start AS start, event_count
      FROM delta_scan('{tables}/counts'))
    SELECT granularity, customer_id, dimension, value AS dimension_value, start AS window_start,
      coalesce(event_count, 0)::BIGINT AS old_count, coalesce(n, 0)::BIGINT AS new_count
    FROM present FULL JOIN recounted USING (granularity, customer_id, dimension, value, start)
    WHERE event_count IS DISTINCT FROM n
    ) TO '{out}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (granularity))
    """
)
