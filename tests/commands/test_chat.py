"""The chat command in a terminal: replies, commands, Ctrl-C."""

import contextlib
import importlib.util
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from pygpt import InputError, chat
from pygpt.config import GPTConfig
from pygpt.tokenizers.base import get_tokenizer
from tests.helpers.chat_model import TOKENIZER, save_run, writes


@pytest.fixture
def talk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command with lines as its standard input; what it prints."""

    def start(run: Path, typed: str, *flags: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["chat", str(run), *flags])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        chat.main()
        return capsys.readouterr().out

    return start


def test_a_dialogue_through_a_pipe(tmp_path: Path, talk: Callable[..., str]) -> None:
    run = save_run(tmp_path / "run", writes(ord("x"))).path
    (tmp_path / "old.jsonl").write_text("kept")
    typed = (
        "hi\n/save talk.jsonl\nhow\nare\n/save talk.jsonl\n/reset\n/save empty.jsonl\n"
        f"/save old.jsonl\n/save\n/nonsense\n/help\n{'y' * 90}\nbye\n/quit\nnever read\n"
    )
    out = talk(run, typed, "--system", "be an x", "--max-new-tokens", "8").splitlines()
    reply = "xxxxxxxx [cut at the longest reply]"
    assert out[0] == reply
    assert out[1] == "3 messages written to talk.jsonl"
    assert out.count(reply) == 4
    assert "[the context is full: the model no longer reads the oldest 2 of 6 messages]" in out
    assert "error: old.jsonl exists; name another file" in out
    assert "error: /save needs the name of a file" in out
    assert "no command '/nonsense'; /help lists them" in out
    assert any("/reset" in line for line in out)
    assert any(line.startswith("error: the last message and the system message") for line in out)
    saved = json.loads((tmp_path / "talk.jsonl").read_text())["messages"]
    assert [m["role"] for m in saved] == ["system", *("user", "assistant") * 3]
    assert saved[1:3] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x" * 8},
    ]
    assert len(json.loads((tmp_path / "empty.jsonl").read_text())["messages"]) == 1
    assert (tmp_path / "old.jsonl").read_text() == "kept"


def test_a_reply_ends_at_the_end_of_the_turn(tmp_path: Path, talk: Callable[..., str]) -> None:
    run = save_run(tmp_path / "run", writes(TOKENIZER.end_of_turn)).path
    assert talk(run, "hi\n") == "\n[no reply; the message is forgotten]\n"


def _interrupt_until_it_ends(process: "subprocess.Popen[bytes]") -> int:
    """Python's readline loses a signal that comes after the prompt and before it waits for keys."""
    for _ in range(12):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(5)
    raise AssertionError("Ctrl-C does not end the program")


def test_ctrl_c_stops_the_reply_and_then_the_program(tmp_path: Path) -> None:
    config = GPTConfig(block_size=16384, vocab_size=320, n_layer=1, n_head=1, n_embd=8)
    run = save_run(tmp_path / "run", writes(ord("x"), config)).path
    master, slave = pty.openpty()
    line = [sys.executable, "-m", "pygpt.chat", str(run), "--max-new-tokens", "8000"]
    process = subprocess.Popen(
        line, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=tmp_path
    )
    os.close(slave)
    shown = ""

    def wait_for(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < end, shown
            shown += os.read(master, 65536).decode()
        shown = shown.partition(text)[2]

    try:
        wait_for("> ")
        os.write(master, b"hi\n")
        wait_for("xxxx")
        process.send_signal(signal.SIGINT)
        wait_for("[stopped]")
        wait_for("> ")
        os.write(master, b"and?\n")
        wait_for("xxxx")
        process.send_signal(signal.SIGINT)
        wait_for("> ")
        assert _interrupt_until_it_ends(process) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_model_without_the_template_is_refused_with_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tmp_path / "run", writes(0), get_tokenizer("bytes").info).path
    monkeypatch.setattr(sys, "argv", ["chat", str(run)])
    with pytest.raises(InputError, match="no chat template") as refused:
        chat.main()
    assert f"python -m pygpt.train --preset chat --init-from {run}" in str(refused.value)
    assert "python -m pygpt.prepare chat DIALOGUES.jsonl" in str(refused.value)


def test_numbers_out_of_range() -> None:
    with pytest.raises(InputError, match="max_new_tokens must be at least 1, got 0"):
        chat.ChatConfig(max_new_tokens=0)
    with pytest.raises(InputError, match="seed must be in"):
        chat.ChatConfig(seed=-1)


def test_serve_starts_answers_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="waits for the extra serve")
    run = save_run(tmp_path / "run", writes(ord("x"))).path
    line = [sys.executable, "-m", "pygpt.chat", str(run), "--serve", "--port"]
    process = subprocess.Popen(
        [*line, "0", "--max-new-tokens", "3"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert process.stdout
        url = process.stdout.readline().split()[0]
        body = json.dumps({"model": "run", "messages": [{"role": "user", "content": "hi"}]})
        with urllib.request.urlopen(f"{url}/v1/chat/completions", body.encode()) as answer:
            assert json.load(answer)["choices"][0]["message"]["content"] == "xxx"
        # a second server on the same port, with a model that would be loaded
        second = subprocess.run(
            [*line, url.rpartition(":")[2]],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert second.returncode == 2
        assert "is in use; take another --port" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "stopped\n")
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.wait()


def test_serve_on_every_address_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uvicorn = pytest.importorskip("uvicorn", reason="waits for the extra serve")
    run = save_run(tmp_path / "run", writes(ord("x"))).path
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    for host, warns in (("127.0.0.1", False), ("0.0.0.0", True)):
        caplog.clear()
        words = ["chat", str(run), "--serve", "--host", host, "--port", "0"]
        monkeypatch.setattr(sys, "argv", words)
        chat.main()
        assert ("everybody who reaches" in caplog.text) == warns


def test_serve_refuses_bad_addresses_and_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tmp_path / "run", writes(ord("x"))).path
    with pytest.raises(InputError, match="port must be from 0 to 65535, got 70000"):
        chat.ChatConfig(port=70000)
    monkeypatch.setattr(sys, "argv", ["chat", str(run), "--serve", "--host", "192.0.2.1"])
    with pytest.raises(InputError, match="can't listen at 192.0.2.1, port 8000"):
        chat.main()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "pygpt-trainer\[serve\]"'):
        chat.main()
