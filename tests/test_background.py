"""Calls in a thread: in turn, not too many at once, and with their errors."""

import threading

import pytest

from biflow.background import AHEAD, InTurn


def test_calls_are_made_in_turn_in_a_thread_and_all_of_them():
    made, main = [], threading.get_ident()
    calls = InTurn(lambda number: made.append((number, threading.get_ident() != main)))
    for number in range(100):
        calls.do(number)
    calls.wait()
    assert made == [(number, True) for number in range(100)]


def test_at_most_a_few_calls_wait():
    gate, made = threading.Event(), []
    calls = InTurn(lambda number: (gate.wait(), made.append(number)))
    for number in range(AHEAD):
        calls.do(number)
    late = threading.Thread(target=calls.do, args=(AHEAD,))
    late.start()
    late.join(0.05)
    assert late.is_alive()  # it waits for the first
    gate.set()
    late.join()
    calls.wait()
    assert made == list(range(AHEAD + 1))


def fail(number, made):
    if number == 2:
        raise ValueError("the disk is full")
    made.append(number)


def test_an_error_comes_with_a_later_call_or_at_the_end_and_drops_what_waits():
    made: list[int] = []
    calls = InTurn(fail)
    with pytest.raises(ValueError, match="the disk is full"):
        [calls.do(number, made) for number in range(100)]
    calls.wait()
    assert made[:2] == [0, 1]
    last = InTurn(fail)
    last.do(2, made)
    with pytest.raises(ValueError, match="the disk is full"):
        last.wait()
