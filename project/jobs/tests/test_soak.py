"""Half a minute of everything at once, from a seed; `make soak` does it for as long as you like."""

import pytest

from project.jobs.tests.chaos import seeds
from project.jobs.tests.servers import Redis
from project.jobs.tests.soak import soak
from project.jobs.tests.stack import Stack

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]


@pytest.mark.parametrize("seed", seeds(1301))
def test_a_short_soak_keeps_all_promises(services: Stack, seed: int) -> None:
    redis = Redis()
    redis.start()
    services.redis_url = redis.url
    try:
        report = soak(services, redis, seed=seed, seconds=40, patience=120)
    finally:
        services.stop()
        redis.close()
    print(report.as_markdown())
    assert not report.broken, report.broken
    assert set(report.jobs) <= {"succeeded", "cancelled", "failed"}
    assert set(report.failures) <= {"infrastructure"}  # lost four times in a row is the only way to fail here
