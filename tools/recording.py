"""Runs a command, shows what it prints, and draws that as a picture: `python -m tools.recording PICTURE COMMAND…`."""

from __future__ import annotations

import re
import subprocess
import sys

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

COLUMNS = 132


def main(picture: str, title: str, *command: str) -> int:
    """Draws the whole output, unless the command fails."""
    console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1) as running:
        console.print(Text(f"$ {title}", style="bold"))
        for line in running.stdout or ():
            console.print(Text.from_ansi(line.rstrip("\n")))
    if running.returncode == 0:
        drawn = console.export_svg(title=title, theme=DIMMED_MONOKAI, unique_id="run")
        # A picture on a page may load nothing, so the fonts that it names are those of the reader's machine.
        with open(picture, "w", encoding="utf-8") as file:
            file.write(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL))
    return running.returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
