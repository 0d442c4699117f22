"""Plant small faults in the modules that decide, one at a time, and count what their tests notice.

A fault is a comparison turned round, a `not` dropped, a condition negated, `and` for `or`, `-` for
`+`, `any` for `all`, `min` for `max`, a number of one digit off by one, a truth value turned round,
a result not returned, or a call, a `raise` or an entry of a dictionary left out. Each faulty module
is tested in a copy of the tree, by the tests that `TESTS` names for it. The last line is the share
of the faults that made a test fail; the exit code is 1 when it misses `TARGET`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).parents[1]
TARGET = 0.9  # the share of faults that the tests have to notice
PATIENCE = 5  # a faulty module may take so many times as long as the sound one
STACKCTL = "packages/stackctl/src/stackctl"
DRIVER = "packages/saltext-ec2/src/saltext/ec2"
LOCALCLOUD = "packages/localcloud/src/localcloud"

# A module that decides -> the tests that have to notice its faults.
TESTS: dict[str, list[str]] = {
    "salt/_cache/pillar_without_secrets.py": ["test_pillar_cache.py"],
    "salt/_pillar/machine_addresses.py": ["test_machine_addresses.py"],
    "salt/_modules/aws.py": [
        "aws/test_account.py",
        "aws/test_faults.py",
        "aws/test_modules.py",
        "aws/test_repair.py",
    ],
    "salt/_modules/airflow.py": ["test_airflow_module.py", "test_airflow_releases.py"],
    "salt/_modules/airflow_artefact.py": ["test_airflow_artefact.py"],
    "salt/_modules/cpu_credits.py": ["test_cpu_credits.py"],
    "salt/_modules/drift.py": ["test_drift.py"],
    "salt/_modules/edge.py": ["test_edge.py"],
    "salt/_modules/site_address.py": ["test_site_address.py"],
    "salt/_modules/site_certificate.py": ["test_site_certificate.py"],
    "salt/_modules/elastic_ip.py": ["aws/test_account.py", "aws/test_elastic_ip.py"],
    "salt/_modules/endpoints.py": ["test_endpoints.py"],
    "salt/_modules/etcd_member.py": ["test_etcd_member.py"],
    "salt/_modules/firewall.py": ["test_endpoints.py", "test_firewall.py"],
    "salt/_modules/machine_counts.py": ["test_machine_counts.py"],
    "salt/_modules/machine_addresses.py": ["test_machine_addresses.py"],
    "salt/_modules/machines.py": ["test_machines.py"],
    "salt/_modules/maintenance.py": ["test_maintenance.py"],
    "salt/_modules/master_backup.py": ["test_master_backup.py"],
    "salt/_modules/master_key.py": ["aws/test_modules.py"],
    "salt/_modules/operators.py": ["test_operators.py"],
    "salt/_modules/highstate.py": ["test_highstate.py"],
    "salt/_modules/metrics.py": ["test_metrics.py"],
    "salt/_modules/patroni.py": ["test_patroni.py"],
    "salt/_modules/postgres_access.py": ["test_postgres_access.py"],
    "salt/_modules/redis_role.py": ["test_redis_role.py"],
    "salt/_modules/pgbackrest.py": ["test_pgbackrest.py"],
    "salt/_modules/release_bucket.py": ["test_release_bucket.py"],
    "salt/_modules/root_disk.py": ["test_root_disk.py"],
    "salt/_states/root_disk.py": ["test_root_disk.py"],
    "salt/_modules/role.py": ["test_role.py"],
    "salt/_modules/s3_bucket.py": ["aws/test_account.py", "aws/test_bucket.py"],
    "salt/_modules/security_group.py": ["test_endpoints.py", "aws/test_modules.py"],
    "salt/_modules/service_config.py": ["test_service_config.py"],
    "salt/_modules/sshd.py": ["test_sshd.py"],
    "salt/_modules/trust.py": ["test_trust.py"],
    "salt/_modules/web_sizes.py": ["test_web_sizes.py"],
    "salt/_states/airflow.py": ["test_airflow_states.py"],
    "salt/airflow/files/airflow_local_settings.py": ["test_airflow_local_settings.py"],
    "salt/airflow/files/web_answers.py": ["test_web_answers.py"],
    "salt/airflow/files/web_auth.py": ["test_web_worker.py"],
    "salt/airflow/files/web_queue.py": ["test_web_queue.py"],
    "salt/haproxy/files/site_certificate.py": ["test_site_certificate.py"],
    "salt/master/files/master_backup.py": ["test_master_backup.py"],
    "salt/postgres/files/backups.py": ["test_backups.py"],
    "salt/postgres/files/etcd_leader.py": ["test_etcd_leader.py"],
    "salt/redis/files/redis_role.py": ["test_redis_role.py"],
    "salt/_states/airflow_artefact.py": ["test_airflow_artefact.py"],
    "salt/_states/aws_account.py": ["aws/test_account.py"],
    "salt/_states/ec2_network.py": [
        "aws/test_account.py",
        "aws/test_faults.py",
        "aws/test_repair.py",
    ],
    "salt/_states/elastic_ip.py": ["aws/test_elastic_ip.py"],
    "salt/_states/etcd_member.py": ["test_etcd_member.py"],
    "salt/_states/firewall.py": ["test_firewall.py"],
    "salt/_states/iam_role.py": [
        "aws/test_account.py",
        "aws/test_bucket.py",
        "aws/test_repair.py",
    ],
    "salt/_states/kernel.py": ["test_kernel.py"],
    "salt/_states/key_pair.py": ["aws/test_foundation.py", "aws/test_repair.py"],
    "salt/_states/highstate.py": ["test_highstate.py"],
    "salt/_states/patroni.py": ["test_patroni.py"],
    "salt/_states/pgbackrest.py": ["test_pgbackrest.py"],
    "salt/_states/postgres_access.py": ["test_postgres_access.py"],
    "salt/_states/redis_role.py": ["test_redis_role.py"],
    "salt/_states/s3_bucket.py": [
        "aws/test_bucket.py",
        "aws/test_faults.py",
        "aws/test_repair.py",
    ],
    "salt/_states/vpc_endpoint.py": ["aws/test_bucket.py", "aws/test_repair.py"],
    "salt/_states/security_group.py": ["aws/test_account.py", "aws/test_foundation.py"],
    "salt/_states/service_config.py": ["test_service_config.py"],
    "salt/_states/setuid.py": ["test_setuid.py"],
    "salt/_states/sshd.py": ["test_sshd.py"],
    f"{STACKCTL}/billing.py": ["stackctl/test_new_account.py"],
    f"{STACKCTL}/credentials.py": ["stackctl/test_credentials.py"],
    f"{STACKCTL}/cpu_credits.py": ["stackctl/test_cpu_credits.py"],
    f"{STACKCTL}/deployment.py": ["stackctl/test_deployment.py", "stackctl/test_roles.py"],
    f"{STACKCTL}/edge_address.py": ["stackctl/test_edge_address.py"],
    f"{STACKCTL}/files.py": ["stackctl/test_files.py"],
    f"{STACKCTL}/host_keys.py": ["stackctl/test_host_keys.py"],
    f"{STACKCTL}/initialise.py": ["stackctl/test_initialise.py"],
    f"{STACKCTL}/launch.py": ["stackctl/test_launch.py"],
    f"{STACKCTL}/limits.py": ["stackctl/test_limits.py"],
    f"{STACKCTL}/locks.py": ["stackctl/test_locks.py"],
    f"{STACKCTL}/machines.py": ["stackctl/test_machines.py"],
    f"{STACKCTL}/operators.py": ["stackctl/test_operators.py"],
    f"{STACKCTL}/preflight.py": ["stackctl/test_preflight.py"],
    f"{STACKCTL}/profiles.py": ["stackctl/test_limits.py"],
    f"{STACKCTL}/refusals.py": ["stackctl/test_refusals.py"],
    f"{STACKCTL}/roles.py": ["stackctl/test_roles.py"],
    f"{STACKCTL}/run.py": ["stackctl/test_run.py"],
    f"{STACKCTL}/salt.py": ["stackctl/test_salt.py"],
    f"{STACKCTL}/recipients.py": ["stackctl/test_recipients.py"],
    f"{STACKCTL}/secret_check.py": ["stackctl/test_secret_check.py"],
    f"{STACKCTL}/secret_edit.py": ["stackctl/test_secret_edit.py"],
    f"{STACKCTL}/secret_store.py": ["stackctl/test_secret_store.py"],
    f"{STACKCTL}/site.py": ["stackctl/test_site.py"],
    f"{STACKCTL}/snapshot.py": ["stackctl/test_launch.py"],
    f"{STACKCTL}/ssh.py": ["stackctl/test_ssh.py"],
    f"{STACKCTL}/ssh_rotation.py": ["stackctl/test_ssh_rotation.py"],
    f"{STACKCTL}/states.py": ["stackctl/test_states.py"],
    f"{STACKCTL}/status.py": ["stackctl/test_status.py"],
    f"{STACKCTL}/tree.py": ["stackctl/test_tree.py"],
    f"{STACKCTL}/up.py": ["stackctl/test_up.py"],
    f"{STACKCTL}/verdict.py": ["stackctl/test_launch.py"],
    f"{DRIVER}/_create.py": ["ec2/test_create.py", "ec2/test_faults.py"],
    f"{DRIVER}/_check.py": ["ec2/test_cli.py", "../../packages/saltext-ec2/tests"],
    f"{DRIVER}/_client.py": ["ec2/test_client.py", "ec2/test_create.py"],
    f"{DRIVER}/_instance.py": [
        "ec2/test_instance_calls.py",
        "ec2/test_instance.py",
        "ec2/test_create.py",
    ],
    f"{DRIVER}/_permissions.py": [
        "../../packages/saltext-ec2/tests/test_permissions.py",
        "aws/test_identity.py",
    ],
    f"{DRIVER}/_private_addresses.py": ["ec2/test_private_addresses.py"],
    f"{DRIVER}/_request.py": ["ec2/test_request.py", "ec2/test_options.py", "ec2/test_create.py"],
    f"{LOCALCLOUD}/account.py": ["localcloud/test_limits.py"],
    f"{LOCALCLOUD}/accesses.py": ["localcloud/test_authorization.py", "ec2/test_policy_parts.py"],
    f"{LOCALCLOUD}/authorization.py": [
        "localcloud/test_authorization.py",
        "localcloud/test_metadata.py",
    ],
    f"{LOCALCLOUD}/cidrs.py": ["localcloud/test_cidrs.py"],
    f"{LOCALCLOUD}/cpu_credits.py": ["localcloud/test_cpu_credits.py"],
    f"{LOCALCLOUD}/delays.py": ["localcloud/test_delays.py"],
    f"{LOCALCLOUD}/faults.py": ["localcloud/test_faults.py"],
    f"{LOCALCLOUD}/hooks.py": [
        "localcloud/test_hooks.py",
        "localcloud/test_instances.py",
        "localcloud/test_limits.py",
    ],
    f"{LOCALCLOUD}/machines.py": ["localcloud/test_docker_host.py", "localcloud/test_host.py"],
    f"{LOCALCLOUD}/metadata.py": ["localcloud/test_metadata.py"],
    f"{LOCALCLOUD}/newborn.py": ["localcloud/test_newborn.py"],
    f"{LOCALCLOUD}/policies.py": ["localcloud/test_policies.py"],
    f"{LOCALCLOUD}/state.py": ["localcloud/test_state.py"],
}

OPPOSITE: dict[type[ast.cmpop], str] = {
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: ">=",
    ast.GtE: "<",
    ast.Gt: "<=",
    ast.LtE: ">",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Is: "is not",
    ast.IsNot: "is",
}
CONTRARY = {"all": "any", "any": "all", "max": "min", "min": "max"}


@dataclass(frozen=True)
class Fault:
    """One change of a module's text.

    Attributes:
        line: the number of its line.
        start: the offset of the text that it replaces, in bytes.
        end: the offset behind that text.
        old: that text.
        new: what stands there instead.
    """

    line: int
    start: int
    end: int
    old: str
    new: str

    def plant(self, source: bytes) -> bytes:
        """Return the module with this fault."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        """Return the line, and the text before and after."""
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.line}: {old[:60]} -> {new[:60]}"


@dataclass
class Verdict:
    """What the tests of one module noticed."""

    module: str
    planted: int = 0
    missed: list[Fault] = field(default_factory=list)


class _Source:
    """A module's text, and where its syntax tree's nodes stand in it."""

    def __init__(self, source: bytes) -> None:
        self.bytes = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def fault(self, node: ast.expr | ast.stmt, new: str) -> Fault:
        start = self._starts[node.lineno - 1] + node.col_offset
        end = self._starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        return Fault(node.lineno, start, end, self.bytes[start:end].decode(), new)


def faults(source: bytes) -> list[Fault]:
    """Return every fault that can be planted in a module, in the order of its lines."""
    text, tree = _Source(source), ast.parse(source)
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for name in ("annotation", "returns")
        if isinstance(found := getattr(node, name, None), ast.expr)
        for inner in ast.walk(found)
    }
    # `@dataclass(frozen=True)` is checked by mypy.
    decorators = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for found in node.decorator_list
        for inner in ast.walk(found)
    }
    found = {
        (fault.start, fault.end, fault.new): fault
        for node in ast.walk(tree)
        if id(node) not in annotations | decorators
        for fault in _faults_of(text, node)
    }
    return sorted(found.values(), key=lambda fault: (fault.start, fault.end, fault.new))


def _faults_of(text: _Source, node: ast.AST) -> Iterator[Fault]:
    if isinstance(node, ast.expr):
        yield from _faults_of_expression(text, node)
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield text.fault(node, "return None")
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Assign(targets=[ast.Subscript()]):
            yield text.fault(node, "pass")
    for test in _conditions(node):
        only_for_types = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
        if not (only_for_types or isinstance(test, ast.Compare | ast.UnaryOp | ast.BoolOp)):
            yield text.fault(test, f"(not ({ast.unparse(test)}))")


def _faults_of_expression(text: _Source, node: ast.expr) -> Iterator[Fault]:
    match node:
        case ast.Compare(left=left, ops=[operator], comparators=[right]):
            sides = ast.unparse(left), ast.unparse(right)
            yield text.fault(node, f"({sides[0]} {OPPOSITE[type(operator)]} {sides[1]})")
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield text.fault(node, f"({ast.unparse(operand)})")
        case ast.BoolOp(op=operator, values=values):
            word = " or " if isinstance(operator, ast.And) else " and "
            yield text.fault(node, f"({word.join(f'({ast.unparse(one)})' for one in values)})")
        case ast.BinOp(op=ast.Add() | ast.Sub() as operator):
            sign = "-" if isinstance(operator, ast.Add) else "+"
            yield text.fault(node, f"({ast.unparse(node.left)} {sign} {ast.unparse(node.right)})")
        case ast.Call(func=ast.Name(id=name) as function) if name in CONTRARY:
            yield text.fault(function, CONTRARY[name])
        case ast.Constant(value=bool(value)):
            yield text.fault(node, str(not value))
        # Larger numbers are patience and sizes: no test can tell 1800 seconds from 1801.
        case ast.Constant(value=int(value)) if value < 10:
            yield text.fault(node, str(value + 1))


def _conditions(node: ast.AST) -> Sequence[ast.expr]:
    match node:
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            return [test]
        case ast.comprehension(ifs=ifs):
            return ifs
    return []


class Tree:
    """A copy of this tree, in which one faulty module after the other is tested."""

    def __init__(self, folder: Path) -> None:
        """Copy what git knows or would add; the virtual environment is linked."""
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
        (folder / ".venv").symlink_to(ROOT / ".venv")

    def fails(self, module: str, source: bytes, timeout: float | None = None) -> bool:
        """Return whether a module's tests fail or hang with this text in its place.

        The tests run in a fork of this process, which has imported Salt and boto3 already.
        """
        path = self.folder / module
        sound = path.read_bytes()
        path.write_bytes(source)
        try:
            child = os.fork()
            if child == 0:
                self._test(module)
            return _ends_badly(child, timeout)
        finally:
            path.write_bytes(sound)

    def _test(self, module: str) -> None:
        """Run a module's tests and end this process with their exit code."""
        code = 99
        with contextlib.suppress(BaseException):
            os.setsid()
            os.chdir(self.folder)
            for stream in (0, 1, 2):
                os.dup2(os.open(os.devnull, os.O_RDWR), stream)
            # No fault may outlive its run in a file of bytecode.
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            sys.path[:0] = [str(path) for path in self.folder.glob("packages/*/src")]
            import pytest  # noqa: PLC0415 - imported before the fork

            tests = [f"tests/unit/{name}" for name in TESTS[module]]
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])
        os._exit(int(code))


def _ends_badly(child: int, timeout: float | None) -> bool:
    deadline = time.monotonic() + timeout if timeout else None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status != 0
        if deadline and time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.02)


def judge(module: str, limit: int | None, trees: Queue[Tree], pool: ThreadPoolExecutor) -> Verdict:
    """Plant the faults of one module and return what its tests noticed.

    Args:
        module: its path below the root of the tree.
        limit: how many faults at most, chosen at random and the same each time; None: all.
        trees: the copies that are free.
        pool: as many threads as there are copies.

    Raises:
        SystemExit: the tests fail without any fault.
    """
    source = (ROOT / module).read_bytes()
    planted = faults(source)
    if limit is not None and limit < len(planted):
        planted = sorted(random.Random(module).sample(planted, limit), key=lambda one: one.start)  # noqa: S311

    def missed(fault: Fault | None, timeout: float | None = None) -> bool:
        tree = trees.get()
        try:
            return not tree.fails(module, fault.plant(source) if fault else source, timeout)
        finally:
            trees.put(tree)

    began = time.monotonic()
    if not missed(None):
        raise SystemExit(f"{module}: its tests fail without any fault: {' '.join(TESTS[module])}")
    timeout = 10 + PATIENCE * (time.monotonic() - began)
    results = pool.map(lambda fault: missed(fault, timeout), planted)
    verdict = Verdict(module, len(planted))
    verdict.missed = [
        fault for fault, was_missed in zip(planted, results, strict=True) if was_missed
    ]
    return verdict


def main() -> int:
    """Print what each module's tests noticed; return 1 when the share misses the target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("module", nargs="*", help="paths of modules; default: all of TESTS")
    parser.add_argument("--each", type=int, default=6, help="faults in each module, at most")
    parser.add_argument("--all", action="store_true", help="every fault, which takes long")
    options = parser.parse_args()
    if unknown := set(options.module) - TESTS.keys():
        parser.error(f"{min(unknown)} is not in TESTS of scripts/mutants.py")
    import boto3  # noqa: F401, PLC0415 - what the forks would import one by one
    import moto  # noqa: F401, PLC0415
    import pytest  # noqa: F401, PLC0415
    import salt.config  # noqa: PLC0415
    import salt.state  # noqa: F401, PLC0415

    # Salt's importer of an old form, at which pytest stumbles.
    sys.meta_path[:] = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    verdicts = []
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        trees: Queue[Tree] = Queue()
        for number in range(workers):
            trees.put(Tree(Path(folder, str(number))))
        for module in options.module or TESTS:
            verdict = judge(module, None if options.all else options.each, trees, pool)
            verdicts.append(verdict)
            noticed = verdict.planted - len(verdict.missed)
            print(f"{module}: {noticed} of {verdict.planted} noticed", flush=True)
            for fault in verdict.missed:
                print(f"    {module}:{fault}", flush=True)
    planted = sum(verdict.planted for verdict in verdicts)
    missed = sum(len(verdict.missed) for verdict in verdicts)
    share = (planted - missed) / planted
    print(
        f"{planted - missed} of {planted} faults noticed: {share:.0%}; the target is {TARGET:.0%}"
    )
    return 0 if share >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
