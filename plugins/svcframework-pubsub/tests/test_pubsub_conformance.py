"""The service passes what every service must."""

from svcframework.testing import ServiceConformance
from svcframework_pubsub import PubsubService


class TestPubsubConformance(ServiceConformance):
    service = PubsubService
    # EDIT: name a fixture with the server's address, and the tests of faults are there as well:
    # server = "postgres_server"  (or "valkey_server": both come with svcframework-embedded)
