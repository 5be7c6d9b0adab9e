"""Writes docs/algorithms and docs/options.md from what Thalweg exports: `python docs/generate.py`."""

from pathlib import Path

from thalweg.catalogue.pages import options_page, pages

FOLDER = Path(__file__).parent / "algorithms"
OPTIONS = Path(__file__).parent / "options.md"


def main() -> None:
    """Write every page, and remove those of optimizers that are gone."""
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text)
    OPTIONS.write_text(options_page())
    print(f"{len(wanted)} pages in {FOLDER.name}, and {OPTIONS.name}")


if __name__ == "__main__":
    main()
