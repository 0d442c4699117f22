"""Keep etcd's leader off the machine of PostgreSQL's primary.

The primary's place in etcd lasts for Patroni's `ttl`, and a new leader of etcd counts it from the
beginning. A lost machine that led both would be replaced some seconds later than one that led
PostgreSQL alone.

https://github.com/etcd-io/etcd/blob/v3.5.16/server/lease/lessor.go (`Promote` renews every lease)
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

_ANSWER_SECONDS = 5
_LATER = 75  # EX_TEMPFAIL of sysexits.h: nobody has to be told, since `role.status` asks both


class Unanswered(Exception):
    """Who does not answer, or what is refused."""


class Machine(NamedTuple):
    """This machine, as the unit names it.

    Attributes:
        own: its id, also the name of its member of etcd.
        domain: of the machines' names.
        etcd_port: of etcd's clients.
        patroni_port: of Patroni's REST API.
        tls: the folder with the member's certificate and the CA.
    """

    own: str
    domain: str
    etcd_port: int
    patroni_port: int
    tls: str

    def request(
        self, name: str, port: int, path: str, question: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        """Return status and JSON of an answer; a question makes it a POST.

        Args:
            name: of the machine that is asked.
            port: of its service.
            path: of the request.
            question: the body.

        Raises:
            Unanswered: there is no answer, or none in JSON.
        """
        try:
            context = ssl.create_default_context(cafile=f"{self.tls}/ca.pem")
            context.load_cert_chain(f"{self.tls}/certificate.pem", f"{self.tls}/key.pem")
            connection = http.client.HTTPSConnection(
                f"{name}.{self.domain}", port, timeout=_ANSWER_SECONDS, context=context
            )
            with closing(connection):
                method, body = ("GET", None) if question is None else ("POST", json.dumps(question))
                connection.request(method, path, body)
                response = connection.getresponse()
                return response.status, json.load(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unanswered(f"{name}:{port} does not answer: {error}") from error

    def leads(self) -> bool:
        """Return whether PostgreSQL's primary is here."""
        status, _ = self.request(self.own, self.patroni_port, "/primary")
        return status == http.client.OK

    def etcd(self, path: str, question: Mapping[str, Any], name: str = "") -> Any:
        """Return the answer of a machine's etcd, of this one's by default.

        Raises:
            Unanswered: there is none, or a refusal.
        """
        status, answer = self.request(name or self.own, self.etcd_port, path, question)
        if status != http.client.OK:
            raise Unanswered(f"etcd on {name or self.own} refuses {path}: {answer}")
        return answer


def give_up(machine: Machine) -> str:
    """Have another member lead etcd if this machine leads both; return what was done, in words.

    Args:
        machine: this one.

    Raises:
        Unanswered: Patroni or etcd does not answer here, or no other member takes over.
    """
    if not machine.leads():
        return "the primary is elsewhere"
    status = machine.etcd("/v3/maintenance/status", {})
    if status["leader"] != status["header"]["member_id"]:
        return "the leader of etcd is elsewhere"
    problem = ""
    for member in _others(machine.etcd("/v3/cluster/member/list", {})["members"], machine.own):
        try:
            machine.etcd("/v3/maintenance/status", {}, member["name"])
            machine.etcd("/v3/maintenance/transfer-leadership", {"targetID": member["ID"]})
        except Unanswered as error:
            problem = problem or str(error)
        else:
            return f"{member['name']} leads etcd"
    if problem:
        raise Unanswered(problem)
    return "there is no other member"


def _others(members: Sequence[dict[str, Any]], own: str) -> list[dict[str, Any]]:
    """Return the members that may lead in place of this one."""
    found = [each for each in members if not each.get("isLearner")]
    return [each for each in found if each.get("name") not in (None, own)]


def main(own: str, domain: str, etcd_port: str, patroni_port: str, tls: str) -> int:
    """Do it, and return the exit code."""
    try:
        print(give_up(Machine(own, domain, int(etcd_port), int(patroni_port), tls)))
    except Unanswered as error:
        print(error, file=sys.stderr)
        return _LATER
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
