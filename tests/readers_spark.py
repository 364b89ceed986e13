"""Spark's part of tests/readers_test.py: runs the example of schemas/README.md, then answers questions. All are in one JSON object on
stdin; the last line of stdout is JSON, a list of rows for each question.

    scripts/spark tests/readers_spark.py <questions
"""

import glob
import json
import os
import sys
from datetime import datetime
from functools import reduce

os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

CONFIG = {
    "spark.jars": ",".join(glob.glob(os.environ["DELTA_JARS"] + "/*.jar")),
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.session.timeZone": "UTC",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # The tables are small and the questions many: to compile code for each of them takes longer than to answer it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
}
OPERATORS = {
    "=": lambda column, value: column == F.lit(value),
    "<": lambda column, value: column < F.lit(value),
    ">=": lambda column, value: column >= F.lit(value),
    "null": lambda column, _: column.isNull(),
    "not null": lambda column, _: column.isNotNull(),
}


def value_of(value):
    return datetime.fromisoformat(value["time"]) if isinstance(value, dict) else value


def main():
    builder = SparkSession.builder.master("local[2]")
    for name, value in CONFIG.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    asked = json.load(sys.stdin)
    exec(asked["example"], {})  # it finds this session
    tables, answers = {}, []
    for question in asked["questions"]:
        path = question["path"]
        if path not in tables:
            tables[path] = spark.read.format("delta").load(path)
        rows = tables[path]
        conditions = [OPERATORS[op](F.col(name), value_of(value)) for name, op, value in question["where"]]
        rows = rows.where(reduce(lambda a, b: a & b, conditions))
        # As text, so that no time is turned into one of this machine's zone.
        texts = [F.col(name).cast("string") for name in question["columns"]]
        answers.append([list(row) for row in rows.select(*texts).collect()])
    spark.stop()
    print(json.dumps(answers))


main()
