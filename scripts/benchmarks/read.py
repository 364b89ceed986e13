"""read: one customer's series by DuckDB over S3, with the customer's bucket in the WHERE clause."""

import hashlib
import json
import statistics
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from . import tables
from .machine import short
from .proxy import CountingProxy

CUSTOMERS = ["shop-00000", "shop-00100", "shop-05000"]
BUCKETS = 8


def run(bench, args):
    s3 = bench.server("s3")
    url = f"s3://{s3['S3_BUCKET']}/bench"
    bench.tell("creating 60 days of history on S3")
    environment = s3 | {"FLOODMARK_TABLES": url}
    history = ["--days", 60, "--customers", 10_000, "--events-per-day", 100_000 if args.quick else 1_000_000]
    made = bench.floodmark(["dev", "preload", "jobs/bench.toml", *history, "--output", "json"], environment, "preload")
    preloaded = json.loads(made["out"])
    store = urlsplit(s3["S3_ENDPOINT"])
    proxy = CountingProxy(store.hostname, store.port)
    try:
        db = tables.connect()
        db.execute(
            f"""CREATE SECRET (TYPE s3, KEY_ID '{s3['AWS_ACCESS_KEY_ID']}', SECRET '{s3['AWS_SECRET_ACCESS_KEY']}',
                REGION 'us-east-1', ENDPOINT '127.0.0.1:{proxy.port}', URL_STYLE 'path', USE_SSL false)"""
        )
        begun = time.monotonic()
        # Pinned: opened once, as a dashboard holds a table, not once a query.
        db.execute(f"ATTACH '{url}/counts' AS counts (TYPE delta, PIN_SNAPSHOT)")
        db.execute("FROM counts LIMIT 0").fetchall()
        opened = time.monotonic() - begun
        opening = proxy.take()
        until = datetime.fromtimestamp(preloaded["until_ms"] / 1000, UTC)
        result = {"preloaded": preloaded, "open": {"seconds": opened} | sums(opening), "queries": {}}
        rows = [
            ["", "rows", "requests", "bytes", "requests to the log", "seconds"],
            ["(opening the table)", "", len(opening), short(sums(opening)["bytes"]), "", f"{opened:.2f}"],
        ]
        for title, granularity, begin, end, periods in ranges(until):
            for name, condition in (("bucket", ""), ("bucket and period", periods)):
                for customer in CUSTOMERS:
                    figures = ask(db, proxy, customer, granularity, begin, end, condition)
                    what = f"{title}, {customer}, by {name}"
                    result["queries"][what] = figures
                    figures_text = [figures["rows"], figures["requests"], short(figures["bytes"])]
                    rows.append([what, *figures_text, figures["log_requests"], f"{figures['seconds']:.2f}"])
    finally:
        proxy.close()
    return result, rows


def ranges(until):
    """A month of days and of hours, the last whole one; a day of minutes, yesterday. With what can be said of the period: periods
    are prefixes of a time and compare as texts, and a longer one that holds the time is less."""
    this_month = until.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last_month = (this_month - timedelta(days=1)).replace(day=1)
    today = until.replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    month = f"AND period >= '{last_month:%Y-%m}' AND period < '{this_month:%Y-%m}'"
    yield "day rows of a month", "day", last_month, this_month, month
    yield "hour rows of a month", "hour", last_month, this_month, month
    day = f"AND period >= '{yesterday:%Y-%m}' AND period < '{today:%Y-%m-%d}'"
    yield "minute rows of yesterday", "minute", yesterday, today, day


def ask(db, proxy, customer, granularity, begin, end, condition):
    bucket = int(hashlib.md5(customer.encode()).hexdigest()[:8], 16) >> (32 - BUCKETS.bit_length() + 1)
    query = f"""SELECT window_start, event_count FROM counts
        WHERE bucket = {bucket} AND customer_id = '{customer}' AND granularity = '{granularity}' AND dimension = 'total'
          AND window_start >= '{begin.isoformat()}' AND window_start < '{end.isoformat()}' {condition}
        ORDER BY window_start"""
    seconds = []
    for _ in range(3):
        # What DuckDB remembers of files is of no use to who asks for the first time.
        db.execute("SET enable_external_file_cache = false")
        db.execute("SET enable_http_metadata_cache = false")
        proxy.take()
        begun = time.monotonic()
        found = len(db.execute(query).fetchall())
        seconds.append(time.monotonic() - begun)
        asked = proxy.take()
    # DuckDB reads the log again for each query, also of a table that is pinned: that is part of opening it.
    log = [request for request in asked if "/_delta_log/" in request[1]]
    data = [request for request in asked if request not in log]
    log_sums = {f"log_{key}": value for key, value in sums(log).items()}
    return {"rows": found, "seconds": statistics.median(seconds)} | sums(data) | log_sums


def sums(asked):
    return {"requests": len(asked), "bytes": sum(size for *_, size in asked)}
