"""One holder at a time; a dead holder's lease ends; a late one cannot take it back."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from opsd_core.errors import ServiceError


def test_the_second_taker_is_told_who_and_until_when(store):
    with store.lease("leases/model", 30, holder="campaign one") as lease:
        lease.check()
        with pytest.raises(ServiceError, match=r"held by campaign one until \d{4}-"), store.lease("leases/model", 30):
            pass
    with store.lease("leases/model", 30) as again:
        again.check()


def test_renewal_outlives_the_lifetime(store):
    with store.lease("leases/model", 1.5) as lease:
        time.sleep(2.5)
        lease.check()
        with pytest.raises(ServiceError), store.lease("leases/model", 1):
            pass


def test_waiting_takers_go_one_after_another(store):
    inside, most, lock = [], [], threading.Lock()

    def work(number: int) -> None:
        with store.lease("leases/model", 30, wait_s=60):
            with lock:
                inside.append(number)
                most.append(len(inside))
            time.sleep(0.05)
            with lock:
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


def write_lease(store, expires_in_s: float, process=None) -> None:
    record = {"holder": "gone", "token": "t", "expires_at": time.time() + expires_in_s, "process": process}
    store.put("leases/model", json.dumps(record).encode())


def test_an_expired_lease_is_taken_over(store):
    write_lease(store, -10)
    with store.lease("leases/model", 30) as lease:
        lease.check()


def test_a_running_lease_of_an_unknown_machine_is_respected(store):
    write_lease(store, 30, {"boot": "other", "namespace": "pid:[1]", "pid": 1, "start": "1"})
    with pytest.raises(ServiceError, match="held by gone"), store.lease("leases/model", 30):
        pass


def hold_and_die(store) -> None:
    with store.lease("leases/model", 600):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_frees_its_lease_at_once(store):
    process = multiprocessing.get_context("fork").Process(target=hold_and_die, args=(store,))
    process.start()
    process.join()
    assert json.loads(store.get("leases/model"))["expires_at"] > time.time() + 500
    with store.lease("leases/model", 30) as lease:
        lease.check()


def test_a_lost_lease_is_noticed_and_not_given_back(store):
    with store.lease("leases/model", 0.6) as lease:
        write_lease(store, 30)
        time.sleep(1)
        with pytest.raises(ServiceError, match="is lost: now held by gone"):
            lease.check()
    assert json.loads(store.get("leases/model"))["holder"] == "gone"
