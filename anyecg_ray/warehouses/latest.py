"""The newest version per key, as a view: OUT/ecg_lab_estimate_latest.KIND.sql, for whichever engine reads the table.

Plain SQL that DuckDB, Spark, Trino, Snowflake and BigQuery take alike, but for the table's name where it is files:
there the FROM clause is DuckDB's. The newest version is the one that came last into the table, also where spans of an
older one were scored again since. PostgreSQL has the view itself.
"""

from anyecg_ray import storage
from anyecg_ray.schema import ECG_LAB_ESTIMATE

NAME = "ecg_lab_estimate_latest"


def write(out: str, kind: str, table: str) -> None:
    """Write the view's definition. table: what the FROM clause says."""
    columns = ", ".join(ECG_LAB_ESTIMATE.names)
    text = f"""CREATE VIEW {NAME} AS
SELECT {columns}
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY span_id, indicator, window_start ORDER BY introduced DESC, estimated_at DESC, model_version DESC
  ) AS newest
  FROM (SELECT *, min(estimated_at) OVER (PARTITION BY model_version) AS introduced FROM {table}) AS every_version
) AS numbered
WHERE newest = 1
"""
    storage.write_atomic(storage.join(out, f"{NAME}.{kind}.sql"), text.encode())
