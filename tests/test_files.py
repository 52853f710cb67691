"""Files that are whole or not there, and what identifies their content."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from synthcap_mm import files
from synthcap_mm.errors import UserError
from synthcap_mm.files import (
    HashCache,
    all_files,
    as_text,
    decode,
    file_sha256,
    folder_sha256,
    inside,
    locked,
    new_folder,
    own_file,
    read_json,
    remove_abandoned,
    temporary_folder,
    write_atomically,
    write_json,
    write_once,
)


@pytest.mark.parametrize("write", [write_atomically, write_once])
def test_a_file_is_whole_or_not_there(tmp_path, write):
    path = tmp_path / "new" / "file"
    with pytest.raises(KeyboardInterrupt), write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    with write(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]


def test_the_first_writer_or_the_last_wins(tmp_path, monkeypatch):
    path = tmp_path / "file"
    for content, write, expected in (
        (b"1", write_once, b"1"),
        (b"2", write_once, b"1"),
        (b"3", write_atomically, b"3"),
    ):
        with write(path) as file:
            file.write(content)
        assert path.read_bytes() == expected

    def no_links(*args):
        raise OSError(1, "no links here")

    monkeypatch.setattr(files.os, "link", no_links)
    for name, expected in (("file", b"3"), ("other", b"4")):
        with write_once(tmp_path / name) as file:
            file.write(b"4")
        assert (tmp_path / name).read_bytes() == expected
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="wanted") as caught, write_once(tmp_path / "wanted"):
        raise OSError(28, "No space left on device")
    assert caught.value.errno == 28


def test_hashes_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    path, memory = tmp_path / "x", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    cache = HashCache(memory)
    first = cache.sha256(path)
    assert first == file_sha256(path)
    cache.save()
    read = []
    monkeypatch.setattr(files, "file_sha256", lambda p: read.append(p) or file_sha256(p))
    assert HashCache(memory).sha256(path) == first and not read
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert HashCache(memory).sha256(path) != first and len(read) == 1
    memory.write_text("{")  # only a cache
    assert HashCache(memory).sha256(path) == file_sha256(path)


def test_folders_count_by_names_and_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "big").write_bytes(bytes(300_000))
    before = folder_sha256(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "notes").write_text("x")
    assert folder_sha256(tmp_path) == before
    (tmp_path / "a" / "big").write_bytes(bytes(299_999) + b"1")
    changed = folder_sha256(tmp_path)
    (tmp_path / "a" / "big").rename(tmp_path / "a" / "other")
    assert len({before, changed, folder_sha256(tmp_path)}) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbf",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"-" + b"9" * 5000,
        b"9" * 5000 + b".0",
        b"[1e999]",
        b"[NaN]",
        b"-Infinity",
        b"\x00",
        b'"\x01"',
        b"1 2",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_damaged_json_is_a_sentence(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.json"):
        read_json(path)


def test_damaged_json_names_line_and_column(tmp_path):
    path = tmp_path / "x.json"
    for content, place in ((b'\xef\xbb\xbf{\n"a": }', "line 2, column 6"), (b'{"a":\n\n"\xff"}', "line 3")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=place):
            read_json(path)


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("a man’s “big” dog…", "cp1252", "WINDOWS-1252"),
        ("a café at night", "latin-1", "WINDOWS-1252"),  # which has Latin-1's letters at the same places
        ("the café’s große Bären", "cp1252", "WINDOWS-1252"),
        ("a dog", "utf-16", "UTF-16"),
        ("a dog", "utf-16-le", "UTF-16LE"),
        ("a dog", "utf-16-be", "UTF-16BE"),
        ("a dog", "utf-32", "UTF-32"),
    ],
)
def test_the_encoding_that_bytes_show_is_named_with_the_line(text, encoding, shown):
    with pytest.raises(UserError, match="line 7: not UTF-8") as error:
        decode("my captions.txt", text.encode(encoding), first_line=7)
    assert repr(text) in str(error.value)
    assert f"iconv -f {shown} -t UTF-8 'my captions.txt'" in str(error.value)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Собака бежит", "cp1251"),
        ("一只狗在草地上", "gbk"),
        ("一隻狗在草地上", "big5"),
        ("犬が走る", "shift_jis"),
        ("สุนัขวิ่ง", "tis-620"),
        ("pies może biec", "cp1250"),
        ("černý pes běží", "cp1250"),
        ("köpek çimlerde koşuyor", "cp1254"),
        ("un café près d’ici", "mac_roman"),
    ],
)
def test_no_encoding_is_named_that_the_bytes_do_not_show(text, encoding):
    with pytest.raises(UserError, match="line 1: not UTF-8") as error:
        decode("c.txt", text.encode(encoding))
    assert "looks like" not in str(error.value)


def test_a_damaged_line_of_a_utf8_file_shows_no_encoding():
    with pytest.raises(UserError, match="line 2: not UTF-8") as error:
        decode("c.txt", "a café\n".encode() + b"a caf\xe9\n")
    assert "looks like" not in str(error.value)


def test_whole_json_is_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\xc3\xa9"]}\n')
    assert read_json(path) == {"a": [1, 2.5, None, "é"]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a\\\\b",
        "C:x",
        "c:/x",
        "a\nb",
        "\x1b[2J",
        "\udc80",
        None,
        5,
        ["a"],
    ],
    ids=ascii,
)
def test_names_that_lead_outside_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="list"):
        inside(tmp_path, name, "list.json")


def test_names_inside(tmp_path):
    for name in ("a.jpg", "val2014/a b.jpg", "..a/b..jpg", "日本 \u00a0é.jpg"):
        assert inside(tmp_path, name, "list.json") == tmp_path / name


def killed_process():
    return subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    ).stdout


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path):
    mine = own_file(tmp_path / "a~b", "1.tmp")
    gone = tmp_path / mine.name.replace(f"~{os.getpid()}~", f"~{killed_process().strip()}~")
    elsewhere, old = (tmp_path / f".{name}~{os.getpid()}~another-host~1.tmp" for name in ("new", "old"))
    others = [tmp_path / name for name in (".x~1~h~z", ".a~b~c~1.tmp", "x~1~h~1.tmp", f".x~{9**20}~h~1.tmp")]
    for path in (mine, old, elsewhere, *others):
        path.touch()
    gone.mkdir()
    (gone / "part").touch()
    for path in (old, others[0]):
        os.utime(path, (1, 1))
    remove_abandoned(tmp_path)
    assert {*tmp_path.iterdir()} == {mine, elsewhere, *others}


def test_a_write_removes_what_killed_processes_left_beside_it(tmp_path):
    left = tmp_path / f".other~{os.getpid()}~another-host~1.tmp"
    left.touch()
    os.utime(left, (1, 1))
    with write_atomically(tmp_path / "file"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "deep" / "x") as folder:
        (folder / "part").touch()
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []
    with new_folder(tmp_path / "deep" / "x") as folder:
        (folder / "part").touch(0o600)
        assert not (tmp_path / "deep" / "x").exists() and folder.name.count("~") == 3
    assert [path.name for path in (tmp_path / "deep" / "x").iterdir()] == ["part"]
    assert (tmp_path / "deep" / "x" / "part").stat().st_mode & 0o044


def test_temporary_folders_nest_and_go(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"synthcap-0a1b~999999999~{socket.gethostname()}~0.tmp"  # of a killed process
    left.mkdir()
    with temporary_folder() as one, temporary_folder() as other:
        assert {*tmp_path.iterdir()} == {one, other} and one != other
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    for name in ("b", "a/x", "c/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(all_files(tmp_path)) == [tmp_path / name for name in ("b", "a/x", "c/y")]
    scandir = os.scandir

    def unreadable(path):
        if str(path).endswith("c"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", unreadable)
    for reading in (lambda: list(all_files(tmp_path)), lambda: folder_sha256(tmp_path)):
        with pytest.raises(PermissionError):
            reading()


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"a\xff/caf\xe9 \xc3\xbc.png")
    assert as_text(name) == r"a\xff/caf\xe9 ü.png" and as_text(tmp_path / "ü") == str(tmp_path / "ü")
    write_json(tmp_path / "names.json", {name: 1, "ü": 2})
    assert read_json(tmp_path / "names.json") == {name: 1, "ü": 2}
    assert "ü" in (tmp_path / "names.json").read_text(encoding="utf-8")


def test_each_folder_is_entered_once_whatever_links_lead_to_it(tmp_path):
    for name in ("root/z/photo", "root/.hidden/x", "outside/deep/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path / "root"
    for link, target in {"a": "z", "loop": ".", "z/up": "..", "one": "../outside", "two": "../outside/deep"}.items():
        (root / link).symlink_to(target)
    (root / "nowhere").symlink_to("gone")
    found = [path.relative_to(root).as_posix() for path in all_files(root, hidden=False)]
    assert found == ["nowhere", "z/photo", "one/deep/y"]  # folders themselves first, then links
    assert (root / ".hidden" / "x") in set(all_files(root))


def test_a_lock_ends_with_its_process_and_is_not_inherited(tmp_path):
    code = (
        "import os, sys, time; from synthcap_mm.files import locked\n"
        "with locked(sys.argv[1], 'late'):\n"
        "    if os.fork() == 0: print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="late"), locked(tmp_path / "lock", "late"):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path / "lock", "late"):  # the child sleeps on
            os.killpg(process.pid, 0)
            with pytest.raises(UserError, match="late"), locked(tmp_path / "lock", "late"):
                pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
    with locked(tmp_path / "lock", "late"):
        pass
