"""Names, clashes, plug-in folders and source digests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dpo_bench import PairLogps, get_loss, list_losses, load_plugins, register
from dpo_bench.contract import UnknownLossError, source_digest
from dpo_bench.errors import ConfigurationError
from tests.registry import restored_registry

LOSS = '''
from dpo_bench import register

@register("{name}", aliases=({aliases}), paper="none", normalization="sum", grid=(0.1, 1))
def {function}(logps, beta: float = 0.1):
    """Straight line."""
    return -beta * logps.margin
'''


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with restored_registry():
        yield


def write_loss(file: Path, name: str = "mine", aliases: str = "", function: str = "mine") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(LOSS.format(name=name, aliases=aliases, function=function), encoding="utf-8")
    return file


def import_file(file: Path, module: str) -> None:
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


# ---- names -------------------------------------------------------------------------------------


def test_alias_is_the_same_loss() -> None:
    assert get_loss("sigmoid") is get_loss("dpo")
    assert "sigmoid" not in list_losses()


def test_names_are_sorted_and_unique() -> None:
    assert list_losses() == sorted(set(list_losses()))


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("dpoo", "dpo"), ("label_smooth", "label_smoothed")]
)
def test_unknown_name_suggests_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(UnknownLossError, match=rf"'{wrong}' \(did you mean '{nearest}'\?\)"):
        get_loss(wrong)


def test_unknown_name_far_from_all_suggests_none() -> None:
    with pytest.raises(LookupError, match=r"^unknown loss 'zzzzzz'\. "):
        get_loss("zzzzzz")


@pytest.mark.parametrize("spelling", ["my loss", "a,b", "0.5*dpo", ""])
def test_name_must_be_an_identifier(tmp_path: Path, spelling: str) -> None:
    write_loss(tmp_path / "mine.py", name=spelling)
    with pytest.raises(
        ConfigurationError, match=f"{spelling!r} cannot name a loss".replace("*", ".")
    ):
        load_plugins(tmp_path)


# ---- clashes -----------------------------------------------------------------------------------


def test_clash_names_file_and_line_of_both(tmp_path: Path) -> None:
    first = write_loss(tmp_path / "one" / "first.py")
    second = write_loss(tmp_path / "two" / "second.py")
    load_plugins(first.parent)
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(second.parent)
    assert f"two losses claim the name 'mine': {first}:4 and {second}:4" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "aliases"), [("dpo", ""), ("sigmoid", ""), ("mine", "'dpo',"), ("mine", "'sigmoid',")]
)
def test_no_name_or_alias_of_a_shipped_loss_can_be_taken(
    tmp_path: Path, name: str, aliases: str
) -> None:
    write_loss(tmp_path / "mine.py", name=name, aliases=aliases)
    shipped = get_loss("dpo")
    with pytest.raises(ConfigurationError, match=r"two losses claim the name '(dpo|sigmoid)'"):
        load_plugins(tmp_path)
    assert get_loss("dpo") is get_loss("sigmoid") is shipped
    assert "mine" not in list_losses()


def test_two_functions_of_one_file_cannot_share_a_name(tmp_path: Path) -> None:
    file = write_loss(tmp_path / "mine.py")
    file.write_text(
        file.read_text("utf-8") + LOSS.format(name="mine", aliases="", function="other"), "utf-8"
    )
    with pytest.raises(ConfigurationError, match="two losses claim the name 'mine'"):
        load_plugins(tmp_path)


def test_same_file_seen_twice_is_the_same_loss(tmp_path: Path) -> None:
    file = write_loss(tmp_path / "mine.py")
    load_plugins(tmp_path)
    import_file(file, "seen_under_another_name")
    assert list_losses().count("mine") == 1


def test_shipped_file_imported_under_another_name_is_the_same_loss() -> None:
    before = list_losses()
    import_file(get_loss("dpo").source_file, "losses_dpo_again")
    assert list_losses() == before


# ---- plug-in folders ---------------------------------------------------------------------------


def test_plugin_is_listed_and_runs(tmp_path: Path) -> None:
    write_loss(tmp_path / "mine.py", aliases="'my_own',")
    assert load_plugins(tmp_path) == ["mine"]
    assert "mine" in list_losses()
    one = torch.ones(2)
    pairs = PairLogps(-one, -3 * one, -one, -one, one, one)
    assert get_loss("my_own")(pairs, beta=0.5).tolist() == [-1.0, -1.0]


def test_loading_a_folder_again_changes_nothing(tmp_path: Path) -> None:
    write_loss(tmp_path / "mine.py")
    assert load_plugins(tmp_path) == load_plugins(str(tmp_path)) == ["mine"]


def test_plugins_may_share_code_by_relative_imports(tmp_path: Path) -> None:
    (tmp_path / "_shared.py").write_text("SLOPE = -2.0\n", encoding="utf-8")
    file = write_loss(tmp_path / "mine.py")
    text = file.read_text(encoding="utf-8").replace("-beta", "SLOPE * beta")
    file.write_text("from ._shared import SLOPE\n" + text, encoding="utf-8")
    load_plugins(tmp_path)
    one = torch.ones(1)
    assert get_loss("mine")(PairLogps(one, one, -one, one, one, one), beta=1).tolist() == [-4.0]


def test_folder_and_file_names_may_be_anything(tmp_path: Path) -> None:
    folder = tmp_path / "Verlust-Funktionen äöü 損失"
    write_loss(folder / "my-loss.py")
    assert load_plugins(folder) == ["mine"]


def test_two_folders_may_hold_files_of_one_name(tmp_path: Path) -> None:
    write_loss(tmp_path / "a" / "loss.py", name="first")
    write_loss(tmp_path / "b" / "loss.py", name="second")
    assert load_plugins(tmp_path / "a") == ["first"]
    assert load_plugins(tmp_path / "b") == ["second"]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("name", ["broken.py", "__init__.py"])
def test_broken_file_is_named(tmp_path: Path, name: str, text: str, cause: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=cause) as caught:
        load_plugins(tmp_path)
    assert str(caught.value).startswith(f"cannot import {tmp_path / name}: ")


def test_error_is_one_line_that_names_where_it_arose(tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text("\n\nraise OSError('one\\n  two\\x1b[31m' + 999 * '!')\n")
    (tmp_path / "broken.py").write_text("from . import near\n")
    with pytest.raises(ConfigurationError) as caught:
        load_plugins(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"cannot import {tmp_path / 'broken.py'}: OSError: one two[31m!!!")
    assert message.endswith("!!! ... (at near.py:3)")
    assert message.isprintable()
    assert len(message) < 500


def test_broken_file_can_be_mended_and_loaded(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ConfigurationError):
        load_plugins(tmp_path)
    write_loss(file)
    assert load_plugins(tmp_path) == ["mine"]


@pytest.mark.parametrize("content", [None, "x = 1\n"])
def test_folder_without_a_loss_is_an_error(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / "nothing.py").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=f"{tmp_path} holds no file that registers a loss"):
        load_plugins(tmp_path)


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere does not exist"):
        load_plugins(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("grid=(0.1, 1)", "grid=(0.1, 1), kl_by=('alpha',)", r"mine has no hyperparameter 'alpha'"),
        ("grid=(0.1, 1)", "grid=(0.1, -1)", r"mine: beta = -1 is outside \(0, inf\)"),
        ("float = 0.1", "float = 0", r"mine: beta = 0 is outside \(0, inf\)"),
        (", beta: float = 0.1", "", "mine has a grid but no hyperparameter"),
        ("float = 0.1", "float", "mine: give beta a number as its default"),
        ("float = 0.1", "bool = True", "mine: give beta a number as its default"),
        ("beta: float", "beta: Nowhere", "cannot read its annotations"),
        ('"""Straight line."""', "", "mine: give the loss function a docstring"),
        ("logps, beta: float = 0.1", "", "its first parameter must be the PairLogps"),
        ("def mine(logps, beta: float = 0.1)", "class mine", "register decorates a function"),
    ],
)
def test_faulty_declaration_names_file_and_fault(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    file = write_loss(tmp_path / "mine.py")
    text = file.read_text(encoding="utf-8")
    assert before in text
    changed = "from __future__ import annotations\n" + text.replace(before, after)
    file.write_text(changed.replace("return -beta * logps.margin", "pass"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_plugins(tmp_path)
    assert str(file) in str(caught.value)


# ---- digests -----------------------------------------------------------------------------------


def write_family(folder: Path) -> Path:
    """A loss that imports a sibling, which imports another; and a file that nobody imports."""
    file = write_loss(folder / "mine.py")
    file.write_text("from ._near import _far\n" + file.read_text("utf-8"), encoding="utf-8")
    (folder / "_near.py").write_text("from . import _far\n", encoding="utf-8")
    (folder / "_far.py").write_text("A = 1\n", encoding="utf-8")
    (folder / "_stranger.py").write_text("B = 1\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "changes"),
    [("mine.py", True), ("_near.py", True), ("_far.py", True), ("_stranger.py", False)],
)
def test_digest_changes_with_the_file_and_what_it_imports(
    tmp_path: Path, file: str, changes: bool
) -> None:
    load_plugins(write_family(tmp_path))
    before = source_digest(get_loss("mine"))
    (tmp_path / file).write_text((tmp_path / file).read_text("utf-8") + "# new\n", "utf-8")
    assert (source_digest(get_loss("mine")) != before) == changes


def test_digest_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    digests = []
    for folder in (tmp_path / "here", tmp_path / "elsewhere"):
        with restored_registry():
            load_plugins(write_family(folder))
            digests.append(source_digest(get_loss("mine")))
    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


def test_loss_without_a_file_has_no_digest() -> None:
    namespace: dict[str, object] = {"register": register}
    code = LOSS.format(name="mine", aliases="", function="mine").replace(
        "from dpo_bench import register", ""
    )
    exec(compile(code, "<stdin>", "exec"), namespace)
    with pytest.raises(ConfigurationError, match="mine has no source file"):
        source_digest(get_loss("mine"))


def test_restoring_the_registry_forgets_plugins(tmp_path: Path) -> None:
    before = list_losses()
    with restored_registry():
        write_loss(tmp_path / "mine.py")
        load_plugins(tmp_path)
    assert list_losses() == before
    assert not [name for name in sys.modules if name.startswith("dpo_bench_plugins_")]


SCRIPT = """
from torch import Tensor
from dpo_bench import PairLogps, get_loss, register
from dpo_bench.contract import source_digest

TARGET = {target}
UNUSED = {unused}

def squared(distance: Tensor) -> Tensor:
    return {body}

@register("of_script", paper="none", normalization="sum", grid=(0.1,))
def of_script(logps: PairLogps, beta: float = 0.1) -> Tensor:
    "Squared distance of the margin from a target."
    return squared(beta * logps.margin - TARGET)

print(source_digest(get_loss("of_script")))
"""


def test_the_digest_of_a_script_s_loss_holds_what_it_uses_of_the_script(tmp_path: Path) -> None:
    """A helper or a constant that changes makes new trials; what the loss does not use does not."""

    def digest(**changes: str) -> str:
        settings = {"target": "1.0", "unused": "0", "body": "distance**2", **changes}
        (tmp_path / "study.py").write_text(SCRIPT.format(**settings), encoding="utf-8")
        command = [sys.executable, str(tmp_path / "study.py")]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    usual = digest()
    assert len(usual) == 64
    assert digest(unused="1") == usual
    assert digest(target="2.0") != usual
    assert digest(body="distance.square()") != usual


def installed_package(folder: Path, source: str) -> list[str]:
    """A package with an entry point, as pip leaves one; the command that lists losses beside it."""
    (folder / "their_losses.py").write_text(source, encoding="utf-8")
    record = folder / "their_losses-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: their-losses\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[dpo_bench.losses]\ntheirs = their_losses\n")
    path = f"import sys; sys.path.append({str(folder)!r});"
    return [
        sys.executable,
        "-c",
        f"{path} import dpo_bench; print(dpo_bench.get_loss('theirs').name)",
    ]


THEIRS = """
from dpo_bench import register

@register("theirs", paper="none", normalization="sum", grid=(0.1,))
def theirs(logps, beta=0.1):
    "A loss of another package."
    return -beta * logps.margin
"""


def test_losses_of_an_installed_package_are_found(tmp_path: Path) -> None:
    command = installed_package(tmp_path, THEIRS)
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "theirs"


def test_a_package_whose_losses_cannot_be_imported_is_named(tmp_path: Path) -> None:
    found = subprocess.run(
        installed_package(tmp_path, "1 / 0"), capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "cannot import their-losses: their_losses: ZeroDivisionError" in found.stderr
