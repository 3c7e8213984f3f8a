from __future__ import annotations

import hashlib
import hmac
import http.server
import json
import logging
import socket
import subprocess
import sys
import threading
import time

import pytest

from evctl.notify.message import clean, run_message
from evctl.notify.sending import notify, notify_run, test_message

HOSTILE = (
    "<!channel> @everyone [click](http://evil) `rm -rf` <script>alert(1)</script>\x1b[31m\x00\u202e "
    "token=hunter2hunter2 https://user:pa55word@host/x?sig=abcdef vehicle_id='v1-00042' 1HGCM82633A004352"
)
RECORD = {
    "run_id": "3f2a91c0",
    "name": "ev-battery local v1 1123-0644",
    "env": "local",
    "state": "RUNNING",
    "parameters": {"data_version": "v1"},
    "tasks": [{"name": "evaluate_fault_model", "state": "SUCCEEDED"}],
    "gate": {"decision": "passed", "accuracy": 0.95, "threshold": 0.9, "reasons": []},
    "model": {"version": "v1-abc", "uri": "file:///store/models/m/v1-abc/"},
}


class Receiver:
    """A webhook receiver on loopback; `answers` are its statuses in turn, the last one for good."""

    def __init__(self, answers=(200,), delay=0.0):
        self.answers, self.delay, self.requests = list(answers), delay, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((dict(self.headers), body))
                time.sleep(outer.delay)
                status = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                try:
                    self.send_response(status)
                    if status == 302:
                        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                    self.end_headers()
                except OSError:
                    pass

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver():
    made = []

    def make(*args, **kwargs):
        made.append(Receiver(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.server.shutdown()
        one.server.server_close()


def config(tmp_path, **urls):
    """A config of webhooks whose URLs lie in files, as in a pod."""
    channels = []
    for name, url in urls.items():
        (tmp_path / f"{name}_URL").write_text(url + "\n")
        channels.append({"name": name, "kind": "webhook", "url_file": f"/secrets/{name}_URL"})
    return {"channels": channels, "attempts": 3, "timeout_s": 0.5}


def quick(_seconds):
    return None


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        ({}, "registered", ["model registered", "v1-abc", "accuracy: 0.95"]),
        (
            {
                "gate": {"decision": "refused", "accuracy": 0.8, "threshold": 0.9, "reasons": ["0.8 < 0.9"]},
                "model": None,
            },
            "refused",
            ["refused by the gate", "0.8 ‹ 0.9", "threshold 0.9"],
        ),
        (
            {
                "tasks": [{"name": "train_fault_classifier", "state": "FAILED", "reason": "OOMKilled"}],
                "model": None,
            },
            "failed",
            ["failed at train_fault_classifier", "why: OOMKilled", "logs 3f2a91c0 --failed"],
        ),
        ({"state": "CANCELED", "model": None}, "canceled", ["cancelled"]),
        ({"cancel_requested": True, "model": None}, "canceled", ["cancelled"]),
        (
            {"state": "FAILED", "tasks": [], "reason": "the worker died", "model": None},
            "failed",
            ["the worker died"],
        ),
        ({"model": None, "gate": {"decision": "passed"}}, "finished", ["without registering"]),
    ],
)
def test_a_message_says_truly_how_the_run_ended(change, state, words):
    message = run_message(RECORD | change)
    assert message.state == state
    for word in words:
        assert word in message.title + "\n" + message.text


def test_a_deployment_that_fails_after_registration_is_a_failure_that_names_the_model():
    tasks = [{"name": "deploy_model_kserve", "state": "FAILED", "reason": "no proof"}]
    message = run_message(RECORD | {"tasks": tasks})
    assert message.state == "failed"
    assert "v1-abc" in message.text


def test_only_a_run_id_is_needed():
    assert run_message({"run_id": "x"}).state == "finished"


def test_the_key_is_the_same_for_a_run_and_state_and_differs_otherwise():
    assert run_message(RECORD).key == run_message(RECORD | {"name": "other"}).key
    assert run_message(RECORD).key != run_message(RECORD | {"state": "CANCELED"}).key
    assert run_message(RECORD).key != run_message(RECORD | {"run_id": "y"}).key


def test_no_secret_vehicle_or_markup_leaves_in_any_field(tmp_path, receiver):
    (tmp_path / "TELEMETRY_TOKEN").write_text("s3cr3t-value")
    hook = receiver()
    hostile = HOSTILE + " s3cr3t-value"
    record = {
        "run_id": hostile,
        "name": hostile,
        "env": hostile,
        "url": hostile,
        "parameters": {"data_version": hostile},
        "tasks": [{"name": hostile, "state": "FAILED", "reason": hostile}],
        "model": {"version": hostile, "uri": hostile},
        "gate": {"decision": "refused", "reasons": [hostile]},
    }
    report = notify_run(record, config(tmp_path, hook=hook.url), secrets=tmp_path)
    told = hook.requests[0][1].decode() + report.log + report.summary
    for word in (
        "hunter2",
        "pa55word",
        "abcdef",
        "v1-00042",
        "1HGCM8",
        "s3cr3t",
        "<",
        "@",
        "`",
        "](",
        "\x1b",
        "\u202e",
    ):
        assert word not in told, word
    json.loads(hook.requests[0][1])


@pytest.mark.parametrize(
    "text",
    [
        "ev_battery_fault_classifier",
        "s3://ev-battery-prod/store",
        "320 vehicles",
        "ev_ml.train",
        "ev-battery v1",
    ],
)
def test_the_products_own_names_are_no_vehicle_ids(text):
    assert clean(text) == text


def test_a_long_value_is_cut():
    assert len(clean("x" * 10_000)) == 400


def test_a_webhook_is_signed_over_its_timestamp_and_body(tmp_path, receiver):
    hook = receiver()
    settings = config(tmp_path, hook=hook.url)
    (tmp_path / "KEY").write_text("k1")
    settings["channels"][0]["hmac_file"] = "KEY"
    assert notify_run(RECORD, settings, secrets=tmp_path).ok
    headers, body = hook.requests[0]
    signed = headers["X-Evctl-Timestamp"].encode() + b"." + body
    assert headers["X-Evctl-Signature"] == "sha256=" + hmac.new(b"k1", signed, hashlib.sha256).hexdigest()
    assert headers["Idempotency-Key"] == json.loads(body)["key"]
    assert json.loads(body)["event"] == "registered"
    assert b"k1" not in body


def test_a_signing_key_that_is_missing_is_not_passed_over(tmp_path, receiver):
    hook = receiver()
    settings = config(tmp_path, hook=hook.url)
    settings["channels"][0]["hmac_env"] = "NO_SUCH_KEY"
    report = notify_run(RECORD, settings, secrets=tmp_path)
    assert not report.ok
    assert "NO_SUCH_KEY" in report.summary
    assert hook.requests == []


def test_a_channel_that_answers_500_is_tried_again(tmp_path, receiver):
    hook = receiver(answers=(500, 200))
    report = notify(run_message(RECORD), config(tmp_path, hook=hook.url), secrets=tmp_path, sleep=quick)
    assert report.deliveries[0].status == "sent"
    assert report.deliveries[0].attempts == 2
    assert hook.requests[0][0]["Idempotency-Key"] == hook.requests[1][0]["Idempotency-Key"]


def test_a_refusal_is_not_tried_again(tmp_path, receiver):
    hook = receiver(answers=(403,))
    report = notify(run_message(RECORD), config(tmp_path, hook=hook.url), secrets=tmp_path, sleep=quick)
    assert report.deliveries[0].attempts == 1
    assert "HTTP 403" in report.summary


def test_a_redirect_is_not_followed(tmp_path, receiver):
    report = notify(
        run_message(RECORD),
        config(tmp_path, h=receiver(answers=(302,)).url),
        secrets=tmp_path,
        sleep=quick,
    )
    assert "HTTP 302" in report.summary


def test_a_dead_and_a_slow_channel_do_not_hold_up_the_living_one(tmp_path, receiver):
    living, slow = receiver(), receiver(delay=3.0)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{reserved.getsockname()[1]}/x?token=verysecret"
        settings = config(tmp_path, dead=dead, slow=slow.url, living=living.url)
        pauses = []
        start = time.monotonic()
        report = notify(run_message(RECORD), settings, secrets=tmp_path, sleep=pauses.append)
    assert time.monotonic() - start < 3.0
    assert [d.status for d in report.deliveries] == ["failed", "failed", "sent"]
    assert sorted(pauses) == [0.5, 0.5, 1.0, 1.0]
    assert "dead FAILED after 3: no answer: Connection refused" in report.summary
    assert "slow FAILED after 3" in report.summary
    assert "verysecret" not in report.summary + report.log


def test_the_same_run_and_state_is_told_once_a_channel(tmp_path, receiver):
    hook = receiver()
    settings = config(tmp_path, hook=hook.url)
    markers = tmp_path / "markers"
    first = notify_run(RECORD, settings, secrets=tmp_path, marker_dir=markers)
    second = notify_run(RECORD, settings, secrets=tmp_path, marker_dir=markers)
    notify_run(RECORD | {"state": "CANCELED"}, settings, secrets=tmp_path, marker_dir=markers)
    assert (first.deliveries[0].status, second.deliveries[0].status) == ("sent", "duplicate")
    assert len(hook.requests) == 2


def test_a_marker_that_cannot_be_written_does_not_fail_anything(tmp_path, receiver):
    (tmp_path / "file").write_text("")
    settings = config(tmp_path, hook=receiver().url)
    assert notify_run(RECORD, settings, secrets=tmp_path, marker_dir=tmp_path / "file").ok


@pytest.mark.parametrize("url", ["file:///etc/passwd", "not a url", "", "http://", "http://[::1", "ftp://x/y"])
def test_a_bad_url_is_told_and_never_shown(tmp_path, url):
    report = notify(run_message(RECORD), config(tmp_path, hook=url), secrets=tmp_path, sleep=quick)
    assert report.deliveries[0].status == "failed"
    assert not url or url not in report.summary


def test_no_channel_is_said_so():
    assert notify_run(RECORD, {}).summary == "registered; logged, no channel configured"


def test_urls_come_from_the_environment_too(monkeypatch, receiver):
    hook = receiver()
    monkeypatch.setenv("HOOK", hook.url)
    assert notify_run(RECORD, {"channels": [{"name": "h", "kind": "webhook", "url_env": "HOOK"}]}).ok
    assert hook.requests


def test_a_mail_goes_out_over_smtp_and_hostile_text_stays_text(tmp_path, monkeypatch):
    from aiosmtpd.controller import Controller

    class Inbox:
        def __init__(self):
            self.mails = []

        async def handle_DATA(self, server, session, envelope):
            self.mails.append(envelope)
            return "250 OK"

    inbox = Inbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        url = f"mailto://127.0.0.1:{port}?from=evctl%40example.org&to=ops%40example.org&mode=insecure"
        monkeypatch.setenv("MAIL", url)
        record = RECORD | {"tasks": [{"name": "t", "state": "FAILED", "reason": HOSTILE}]}
        report = notify_run(record, {"channels": [{"name": "mail", "url_env": "MAIL"}], "attempts": 1})
    finally:
        controller.stop()
    assert report.ok, report.summary
    assert inbox.mails[0].rcpt_tos == ["ops@example.org"]
    import email

    mail = email.message_from_bytes(inbox.mails[0].content)
    text = b"".join(p.get_payload(decode=True) or b"" for p in mail.walk() if not p.is_multipart()).decode()
    assert "failed at t" in text
    assert "<script" not in text
    assert "hunter2" not in text


def test_a_dead_mail_server_is_told_without_its_password(monkeypatch, capfd):
    monkeypatch.setenv("MAIL", "mailto://user:pa55word@127.0.0.1:1?to=ops%40example.org&mode=insecure")
    settings = {"channels": [{"name": "mail", "url_env": "MAIL"}], "attempts": 2, "timeout_s": 1}
    report = notify(run_message(RECORD), settings, sleep=quick)
    assert report.deliveries[0].status == "failed"
    out, err = capfd.readouterr()
    assert "pa55word" not in out + err + report.log + report.summary
    assert logging.getLogger("apprise").propagate is False


def test_an_unknown_apprise_url_is_told(monkeypatch):
    monkeypatch.setenv("X", "nonsense://abc")
    report = notify(run_message(RECORD), {"channels": [{"name": "x", "url_env": "X"}]}, sleep=quick)
    assert "does not know" in report.summary


def test_each_test_message_is_new():
    assert test_message("dev").key != test_message("dev").key


def test_importing_notify_loads_nothing_heavy():
    heavy = "('apprise', 'httpx', 'requests', 'pydantic', 'typer')"
    code = f"import sys, evctl.notify.sending; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
