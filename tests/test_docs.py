"""Docs stay true: links resolve, commands and paths exist, Python blocks import, the command-line page is current."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

from shared.registry import TASKS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))
generate = importlib.import_module("generate")
sys.path.pop(0)

FOLDERS = ("docs", "bones", "coronary", "spine", "shared", "data", "tests", "benchmarks", "recipes")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
CALL = re.compile(
    r"(?:\w+=\S+ )*(?:uv run (?:--[\w-]+ )*)?(?:python -m )?"
    rf"(?P<task>{'|'.join(TASKS)}) (?P<verb>[a-z]+)(?=\s|$)(?P<rest>.*)"
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def blocks(text, language=r"\w*"):
    """The fenced code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def inline_code(text):
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text):
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in target]


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def commands(text):
    """Every ``coronary VERB ...`` in a page's shell blocks and inline code: task, verb, options."""
    lines = [line for block in blocks(text, "(?:bash|sh|console)") for line in block.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines + inline_code(text):
        for words in re.split(r"[|;&>]+", re.split(r"\s#\s", line)[0].removeprefix("$ ")):
            call = CALL.match(words.strip())
            if call:
                found.append((call["task"], call["verb"], OPTION.findall(call["rest"])))
    return found


def problems_of(text):
    """What the commands of a page get wrong."""
    found = []
    for task, verb, options in commands(text):
        if verb not in TASKS[task].verbs:
            found.append(f"{task} {verb}: no such verb")
            continue
        known = set(OPTION.findall(generate.help_of(task, verb)))
        found += [f"{task} {verb} {option}: no such option" for option in options if option not in known]
    return found


def broken_links(page, text):
    found = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target.exists() and ROOT in (target, *target.parents)
        if not inside or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            found.append(link)
    return found


def missing_names(block):
    """Names that a block of Python imports from this project and that are not there."""
    found = []
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in (*TASKS, "shared"):
            module = importlib.import_module(node.module)
            found += [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
    return found


@PAGE
def test_links_resolve(page):
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@PAGE
def test_commands_exist(page):
    assert problems_of(page.read_text(encoding="utf-8")) == []


@PAGE
def test_source_files_named_exist(page):
    roots = "|".join(FOLDERS)
    named = [
        code for code in inline_code(page.read_text(encoding="utf-8")) if re.fullmatch(rf"({roots})/[\w/]+\.py", code)
    ]
    assert [name for name in named if not (ROOT / name).is_file()] == []


@PAGE
def test_python_blocks_import_what_is_there(page):
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        assert missing_names(block) == []


@PAGE
def test_recipes_named_are_in_the_justfile(page):
    recipes = set(re.findall(r"^([a-z]+)[^:=\n]*:(?!=)", (ROOT / "justfile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    named = [
        code.split()[1]
        for code in inline_code(text) + "\n".join(blocks(text)).splitlines()
        if re.match(r"just [a-z]", code)
    ]
    assert set(named) <= recipes


def test_the_command_line_page_is_current():
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run `just docs`"


def test_the_page_of_the_services_settings_is_current():
    assert generate.SETTINGS_PAGE.read_text(encoding="utf-8") == generate.settings_page(), "run `just docs`"


def test_the_contrast_page_says_the_numbers_of_the_code():
    from coronary import contrast

    text = (ROOT / "docs" / "explanation" / "contrast-region.md").read_text(encoding="utf-8")
    low, high = contrast.BLOOD_HU
    for said in (
        f"{contrast.SPACING_MM:g} mm grid",
        f"Between {low:g} and {high:g} HU",
        f"ball of {contrast.CORE_RADIUS_MM:g} mm radius",
        f"at most {contrast.MAX_BLOOD_SD_HU:g} HU",
        f"At least {contrast.MIN_BLOOD_ML:g} ml",
        f"within {contrast.REACH_MM:g} mm",
    ):
        assert said in text


def test_what_is_wrong_is_seen():
    assert problems_of("```bash\nuv run --no-dev coronary predict a.nii.gz --out b --sereis 3\n```") == [
        "coronary predict --sereis: no such option"
    ]
    assert problems_of("```bash\npip install uv && SKIAGRAM_MODELS=m uv run --no-dev coronary demo --fast\n```") == [
        "coronary demo --fast: no such option"
    ]
    assert problems_of("say `coronary segment x`") == ["coronary segment: no such verb"]
    assert problems_of("```bash\ncoronary phantom --out x \\\n  --cuont 2   # --not-read\n```") == [
        "coronary phantom --cuont: no such option"
    ]
    assert problems_of("`coronary predict a --out b --dicom-seg`") == []
    page = ROOT / "docs" / "getting-started.md"
    assert broken_links(page, "[a](no-such.md) [b](how-to/train.md#presets) [c](how-to/train.md#none) [d](../..)") == [
        "no-such.md",
        "how-to/train.md#none",
        "../..",
    ]
    assert missing_names("from shared.runtime import read_metadata, no_such_name") == ["shared.runtime.no_such_name"]
