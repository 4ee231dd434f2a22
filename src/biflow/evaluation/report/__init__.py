"""Tables, plots and a page from evaluated models: the paper's Table 1 and 2, its charts, and Fig. 4 and 5.

`runs` reads the results and groups what may be compared, `figures` draws, and `texts` writes Markdown, CSV and HTML.
"""

import re
from pathlib import Path

from biflow.evaluation.report import figures, texts
from biflow.evaluation.report.runs import groups, read_runs
from biflow.files import check_not_others, together, write_text

PICTURES = re.compile(r"(scatter|time|measures)_.+\.(png|svg)|(methods|last|directions)_.+\.png")


def report(folders: list[Path], out: Path) -> Path:
    """Write the report of evaluated models to `out` and return the path of its page.

    It consists of `report.md` and `report.csv` (tables), the pictures of `figures.draw`, and `report.html`, one file
    with everything and the videos side by side. Pictures of an earlier report in `out` are removed. Runs with different
    protocols or data get separate tables. Raises UserError for folders without an evaluation, and for another
    report in `out`.
    """
    check_not_others(out, ("report.csv", "report.html"), "report.md", texts.TITLE)
    runs = read_runs(folders)
    with together(out) as new:
        plots = [(group, figures.draw(group, new)) for group in groups(runs)]
        write_text(new / "report.md", texts.markdown(plots))
        write_text(new / "report.csv", texts.comma_separated(runs))
        write_text(new / "report.html", texts.page(plots))
        for path in list(out.iterdir()) if (out / "report.html").exists() else ():
            if PICTURES.fullmatch(path.name):
                path.unlink()
    return out / "report.html"
