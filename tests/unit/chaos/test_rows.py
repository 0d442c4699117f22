"""The table names what exists, and what a row misses is said."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chaos import model, rows, slow
from tests.chaos.faults import FAULTS, OF_ALL, OF_ROLE
from tests.chaos.render import SUMMARY, settings
from tests.chaos.rows import ROWS, TARGETS, Row, misses
from tests.chaos.visitors import PACES

from bench.machines import cut_rules
from plainpillar import DEPLOYMENT


def run(**changes: Any) -> dict[str, Any]:
    kind = {"asked": 10, "failed": 0, "errors": {}, "away_s": 0.0, "longest_s": 0.1}
    keys = ("acknowledged", "lost", "doubled", "disordered", "unseen", "unknown", "done_unsaid")
    made: dict[str, Any] = {kind_of: dict(kind) for kind_of in ("reads", "writes", "logins")}
    made |= {"ledger": dict.fromkeys(keys, 0), "by_itself": True, "up_s": 0.0, "well": True}
    made |= {"well_s": 3.0, "lasted_s": 0.0, "machines": ["web-1"]}
    return made | changes


def away(seconds: float) -> dict[str, Any]:
    return run(writes={**run()["writes"], "away_s": seconds})


def test_names_are_unique_and_parts_exist() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert set(row.targets) <= set(TARGETS)
        assert row.fault in FAULTS
        assert set(row.limits) <= {"reads", "writes", "logins"}
    assert set(SUMMARY) <= {row.name for row in ROWS}


def test_whole_table_fits_its_time() -> None:
    assert sum(row.minutes for row in ROWS) < 70


def test_every_class_of_the_model_is_a_row() -> None:
    assert sorted(row.pigsty for row in ROWS if row.pigsty) == sorted(model.CLASSES)
    assert {way for _, way in model.CLASSES.values()} == set(model.WAYS)


def test_what_lasts_is_ended_also_after_a_killed_run() -> None:
    """A network is mended by one way back, whichever way it was cut."""
    swept = OF_ALL.union(*OF_ROLE.values(), {"api-stopped"})
    ways = {FAULTS[key].mend for key in swept}
    assert {key for key, fault in FAULTS.items() if fault.mend and fault.mend not in ways} == set()


def test_what_has_to_be_ended_names_its_remedy() -> None:
    assert [key for key, fault in FAULTS.items() if bool(fault.mend) != bool(fault.remedy)] == []


ROW = Row(("web",), "gone", {"writes": 5})


def test_row_within_its_limits_misses_nothing() -> None:
    assert misses(ROW, [away(5)]) == []


def test_median_decides_about_time() -> None:
    assert misses(ROW, [away(2), away(9), away(4)]) == []
    assert misses(ROW, [away(2), away(9), away(6)]) == ["web-gone: writes away for 6 s, to reach 5"]


@pytest.mark.parametrize("key", ["lost", "doubled", "disordered", "unseen", "unknown"])
def test_one_wrong_write_in_any_run_is_a_miss(key: str) -> None:
    wrong = run(ledger={**run()["ledger"], key: 1})
    assert misses(ROW, [run(), run(), wrong]) == [f"web-gone: 1 writes {key}"]


def test_stack_that_is_not_well_is_a_miss() -> None:
    assert "not well" in misses(ROW, [run(well=False)])[0]
    assert misses(ROW, []) == ["web-gone: not measured"]


def test_fault_alone_and_two_at_once_have_names() -> None:
    assert Row(("web", "edge"), "gone").name == "web-and-edge-gone"
    assert rows.BY_NAME["api-killed"].targets == ("api",)


def test_logins_stay_within_what_airflow_allows_an_address() -> None:
    allowed, _, seconds, unit = DEPLOYMENT.base_pillar("airflow")["login_rate_limit"].split()
    assert unit == "seconds"
    assert PACES["logins"] > int(seconds) / int(allowed)


def test_model_with_known_settings() -> None:
    """Those of Pigsty's mode `fast`; it waits for two more checks, half a second each."""
    fast = model.Settings(ttl=20, loop=5, retry=5, check=1, start=15)
    assert str(model.expired(fast)) == "15 / 22 / 28"
    assert str(model.given_up(fast)) == "15 / 22 / 28"
    assert str(model.commanded(fast)) == "0 / 2 / 4"
    assert settings().ttl >= settings().loop + 2 * settings().retry


def test_cut_of_ports_and_of_one_way() -> None:
    both = cut_rules((2379, 2380), ("in", "out"))
    assert both.count("drop") == 4
    assert "iif != lo tcp dport { 2379, 2380 } drop" in both
    one = cut_rules((), ("out",))
    assert one.count("drop") == 1
    assert "oif != lo" in one


def test_slow_network_finds_the_packets_in_what_the_kernel_sends() -> None:
    def sent(packet: int) -> bytes:
        header = packet.to_bytes(4, "big") + b"\x08\x00\x03"
        return slow.message(slow.PACKET, 7, slow.PACKET_HEADER, header)

    other = slow.message(0x2, 0, slow.PACKET_HEADER, b"\0\0\0\1")
    assert slow.packets(sent(5) + other + sent(70000)) == [5, 70000]
    assert slow.packets(b"") == []
