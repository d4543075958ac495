"""The newest version per key, as a view: OUT/ecg_lab_estimate_latest.sql, for whichever engine reads the table.

Plain SQL that DuckDB, Spark, Trino, Snowflake and BigQuery take alike. PostgreSQL has the view itself.
"""

from anyecg_ray import storage
from anyecg_ray.schema import ECG_LAB_ESTIMATE

NAME = "ecg_lab_estimate_latest"


def write(out: str, table: str) -> None:
    """Write the view's definition. table: what the FROM clause says."""
    columns = ", ".join(ECG_LAB_ESTIMATE.names)
    text = f"""CREATE VIEW {NAME} AS
SELECT {columns}
FROM (
  SELECT *, row_number() OVER (
    PARTITION BY span_id, indicator, window_start ORDER BY estimated_at DESC, model_version DESC
  ) AS newest
  FROM {table}
) AS every_version
WHERE newest = 1
"""
    storage.write_atomic(storage.join(out, f"{NAME}.sql"), text.encode())
