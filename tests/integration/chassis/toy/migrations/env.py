from chassis.migrations import run_env
from tests.integration.chassis.toy.tables import metadata

run_env(metadata)
