"""The checks of tests/e2e.rs, by DuckDB alone: scripts/recount's, and that `raw` holds what was sent.

Run by tests/e2e.rs: `scripts/python tests/e2e_check.py`. Each line of stdin is a request, each line of stdout its answer:
  {"tables": URL, "topic": NAME, "web": true, "sent": FILE or null}
  {"differences": [...], "failed": {CHECK: N}, "raw": [...], "rows": N, "events": N, "epoch": N, "lanes": {"minute": N, ...}} or {"error": TEXT}
FILE has a line for each record that must be in raw: partition, offset, timestamp (ms), md5 of key and of value (- for null).
"""

import importlib.machinery
import importlib.util
import json
import os
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True  # scripts/recount is loaded as a module: nothing shall appear beside it
os.environ["FLOODMARK_PYTHON"] = "1"  # this is the right Python already

loader = importlib.machinery.SourceFileLoader("recount", str(ROOT / "scripts/recount"))
recount = importlib.util.module_from_spec(importlib.util.spec_from_loader("recount", loader))
loader.exec_module(recount)

# The md5 of a null is null: told apart from an empty value, whose md5 is not.
RAW_DIFFERS = """
WITH sent AS (
  FROM read_csv(?, header = false, columns = {'kafka_partition': 'INT', 'kafka_offset': 'BIGINT', 'sent_ms': 'BIGINT',
    'sent_key': 'VARCHAR', 'sent_value': 'VARCHAR'})
), archived AS (
  SELECT kafka_partition, kafka_offset, epoch_ms(kafka_timestamp) AS raw_ms, coalesce(md5(key), '-') AS raw_key,
    coalesce(md5(value), '-') AS raw_value, count(*) OVER (PARTITION BY kafka_partition, kafka_offset) AS times
  FROM raw WHERE kafka_topic = ?
)
SELECT kafka_partition, kafka_offset, times, sent_ms, raw_ms, sent_key = raw_key AS same_key, sent_value = raw_value AS same_value
FROM sent FULL JOIN archived USING (kafka_partition, kafka_offset)
WHERE times IS DISTINCT FROM 1 OR sent_ms IS DISTINCT FROM raw_ms OR sent_key IS DISTINCT FROM raw_key
  OR sent_value IS DISTINCT FROM raw_value
ORDER BY ALL
"""

# For jobs/access-log.toml, which scripts/recount.sql is not about: totals of all customers, when all lanes are level with raw.
TOTALS_DIFFER = """
WITH counted AS (
  SELECT granularity, date_trunc(granularity, event_time) AS window_start, count(*) AS records
  FROM raw, (SELECT unnest(['minute', 'hour', 'day', 'week', 'month', 'year']) AS granularity)
  WHERE outcome = 'counted' GROUP BY ALL
), wanted AS (
  FROM counted, (SELECT unnest(['total', 'status', 'method', 'path']) AS dimension)
  WHERE dimension <> 'path' OR granularity IN ('hour', 'day', 'month')
), published AS (
  SELECT granularity, window_start, dimension, sum(event_count)::BIGINT AS event_count FROM counts GROUP BY ALL
)
SELECT granularity, window_start, dimension, event_count AS in_counts, records AS recounted
FROM wanted FULL JOIN published USING (granularity, window_start, dimension)
WHERE records IS DISTINCT FROM event_count
ORDER BY ALL
"""


def rows(found, limit=20):
    names = [column[0] for column in found.description]
    return [{name: str(value) for name, value in zip(names, row)} for row in found.fetchmany(limit)]


def check(request):
    url = request["tables"]
    db = recount.connect(url)
    raw, _ = recount.open_tables(db, url)
    lanes = dict(db.execute("FROM lanes").fetchall())
    count, events = db.execute("SELECT count(*), count(*) FILTER (outcome = 'counted') FROM raw").fetchone()
    answer = {"rows": count, "events": events, "epoch": raw.transaction_version("epoch") or 0, "lanes": lanes, "raw": [], "failed": {}}
    if request["web"]:
        found = rows(recount.differences(db), 10_000)
        answer["differences"], answer["failed"] = found[:20], Counter(row["check"] for row in found)
    else:
        level = set(lanes.values()) == {answer["epoch"]}
        answer["differences"] = rows(db.execute(TOTALS_DIFFER)) if level else []
    if request["sent"]:
        answer["raw"] = rows(db.execute(RAW_DIFFERS, [request["sent"], request["topic"]]))
    return answer


for line in sys.stdin:
    try:
        answer = check(json.loads(line))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
