"""How tests run Spark: on a few rows it would spend its time on compiling; what it computes is the same."""

from pathlib import Path
from typing import Final

_COMPILER: Final = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
HASTY: Final = {
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.sql.adaptive.enabled": "false",
    "spark.driver.extraJavaOptions": _COMPILER,
    "spark.executor.extraJavaOptions": _COMPILER,
}


def configuration(folder: Path) -> str:
    """A folder for SPARK_CONF_DIR."""
    (folder / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in HASTY.items()))
    return str(folder)
