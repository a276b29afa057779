"""What README, docs and docstrings show is run: every Python block, every ``dao-ase`` line, every ``>>>``.

A block that cannot run here carries ``<!-- not run: reason -->`` on the line above; its commands and options are checked
all the same. Lines of other programs are held against what this repository has: targets of the Makefile, extras.
"""

import ast
import doctest
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dao_ase.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    why_not: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(found["language"], found["code"], text[: found.start("code")].count("\n") + 1, found["why"])
        for found in FENCE.finditer(text)
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_page(page, tmp_path):
    """The blocks of a page, one after another in one session of a new process, as a reader would run them."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    python(Path(__file__), str(page), folder=tmp_path)


def python(script: Path, *arguments: str, folder: Path) -> None:
    """Runs a script in a new interpreter, without the type checks that slow the tests' own down."""
    environment = {**os.environ, "DAO_ASE_SMOKE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def run_page(page: Path) -> None:
    """Runs what can be run on a page and checks the rest."""
    click.launch = lambda url: 0  # no browser
    session: dict = {"__name__": page.stem}
    for block in blocks(page):
        place = f"{name(page)}:{block.line}"
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, place, "exec")
            if block.why_not is None:
                exec(code, session)
        elif block.language == "bash":
            for line in block.code.replace("\\\n", " ").splitlines():
                shell(line, place, block.why_not is None)
        else:
            assert block.language in ("toml", "text", "json"), f"{place}: nothing here can run {block.language!r}"


def shell(line: str, place: str, run: bool) -> None:
    """Runs a ``dao-ase`` line, or checks it; other programs are only checked."""
    words = shlex.split(line, comments=True)
    match words:
        case []:
            pass
        case ["dao-ase", *arguments]:
            check_options(arguments, place)
            if run:
                done = CliRunner().invoke(main, arguments)
                assert done.exit_code == 0, f"{place}: {line}\n{done.output}\n{done.exception!r}"
        case ["ase", *arguments]:
            if run:
                subprocess.run([sys.executable, "-m", "ase", *arguments], check=True, capture_output=True)
        case ["make", target, *_]:
            assert target in TARGETS, f"{place}: the Makefile has no target {target!r}"
        case ["pip", "install", *what]:
            named = {extra for word in what for group in re.findall(r"\[(.+)\]", word) for extra in group.split(",")}
            assert named <= EXTRAS, f"{place}: pyproject.toml has no extra {named - EXTRAS}"
        case ["python", "-m", module, *_] if module.startswith("dao_ase."):
            assert importlib.util.find_spec(module) is not None, f"{place}: there is no module {module}"
        case ["python", script, *_] if not script.startswith("-"):
            assert (ROOT / script).is_file(), f"{place}: there is no {script}"
        case ["apt-get", "install", *_] | ["eval", *_] | ["torchrun", *_]:
            pass
        case _:
            raise AssertionError(f"{place}: what is {words[0]!r}? run it or say 'not run: reason' above the block")


def check_options(arguments: list[str], place: str) -> None:
    """The command exists, and so do its options."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        inner = command.get_command(context, arguments[0])
        assert inner is not None, f"{place}: dao-ase has no command {arguments[0]!r}"
        command, arguments = inner, arguments[1:]
    known = {
        option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
    assert given <= known, f"{place}: {command.name} has no option {given - known}"


def test_docstrings(tmp_path):
    """Examples in docstrings run; where they show a value, it is this value."""
    python(Path(__file__), "--docstrings", folder=tmp_path)


def run_docstrings() -> int:
    """Runs every ``>>>`` of the package and gives the number of failures."""
    attempted = failed = 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        if ">>>" in path.read_text("utf-8"):
            parts = path.relative_to(ROOT / "src").with_suffix("").parts
            module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
            results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            attempted, failed = attempted + results.attempted, failed + results.failed
    return failed if attempted else 1


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, tmp_path):
    """Examples shorten themselves when DAO_ASE_SMOKE is set; one that needs an extra names it at its top."""
    tree = ast.parse(example.read_text("utf-8"))
    said = ast.get_docstring(tree) or ""
    assert said, "an example says at its top what it shows"
    absent = [name for name in libraries(tree) if importlib.util.find_spec(name) is None]
    if absent:
        extra = re.search(r"dao-ase\[(\w+)\]", said)
        assert extra and extra[1] in EXTRAS, f"{absent} is in no extra that the example names"
        pytest.skip(f'no {absent[0]}: pip install "dao-ase[{extra[1]}]"')
    python(example, folder=tmp_path)


def libraries(tree: ast.Module) -> set[str]:
    """The packages that a script imports at its top."""
    modules = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {module.partition(".")[0] for module in modules}


def test_figures_of_results_were_measured():
    """Each benchmark file names its command and commit, and each command is there."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        result = json.loads(path.read_text("utf-8"))
        script = Path(result["command"].split()[1]).name
        assert (ROOT / "benchmarks" / script).is_file(), f"{path.name}: there is no benchmarks/{script}"
        assert re.match(r"[0-9a-f]{7,}", result["commit"]), path.name
        assert result["hardware"]["cores"] >= 1
        assert not any(str(value).startswith(os.sep) for value in result.values()), "no path of a machine"


if __name__ == "__main__":
    if sys.argv[1] == "--docstrings":
        sys.exit(run_docstrings() > 0)
    run_page(Path(sys.argv[1]))
