"""`tfser ui` as an application: which address shows what, and what becomes of errors.

In goes a `Library` and a token; out comes an ASGI application made of Starlette's routes and Jinja's templates. Every page is
rendered here, whole, without a script. A request becomes values (`listing`, `one_utterance`, `results_pages`), the values a page.
What a user can mend is one line on a page of its own (400 and 404), what cannot be read or was not foreseen another (500); a
traceback is never shown. Nothing is written.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tfser import __version__
from tfser.heads.reports.material import read_material
from tfser.heads.reports.page import Wishes, detailed, write_page
from tfser.heads.reports.report_tables import ReportTable, brief
from tfser.heads.reports.templates import environment
from tfser.heads.reports.ui import listing, results_pages
from tfser.heads.reports.ui.guard import HOSTS, Guard
from tfser.heads.reports.ui.library import Library
from tfser.heads.reports.ui.one_utterance import address_of, utterance_part
from tfser.heads.reports.ui.sounds import find_utterance, flac_of, part_of
from tfser.manifests.errors import TfserError, UsageError, first_line
from tfser.manifests.notes import note
from tfser.manifests.wording import count

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGES = (
    ("", "Overview"),
    ("utterances", "Utterances"),
    ("experiments", "Experiments"),
    ("audits", "Audits"),
    ("report", "Report"),
    ("sql", "SQL"),
)
"""The pages of the navigation: address and name."""

_EXAMPLE = "SELECT corpus, label, count(*) AS n FROM utterances GROUP BY ALL ORDER BY ALL"


def build_app(library: Library, token: str) -> Starlette:
    """Return the application.

    Args:
        library: what its pages read from.
        token: what every address must begin with.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        library.stop()

    pages: Mapping[str, Callable[[Library, Request], Response]] = {
        "/": _overview,
        "/utterances": _utterances,
        "/utterance": _utterance,
        "/sound": _sound,
        "/experiments": _experiments,
        "/experiment": _experiment,
        "/compare": _compare,
        "/audits": _audits,
        "/report": _report,
        "/sql": _sql,
    }
    # GET alone, since nothing here changes anything; the host is checked before the token, and both before any page is made.
    routes = [Route(path, _answering(library, make), methods=["GET"]) for path, make in pages.items()]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False),
        Middleware(Guard, token=token),
    ]
    return Starlette(routes=routes, middleware=guards, lifespan=lifespan, exception_handlers={404: _nowhere})


def _answering(library: Library, make: Callable[[Library, Request], Response]) -> Callable[[Request], Response]:
    """Return an endpoint that makes a page, or says in one line why there is none."""

    def endpoint(request: Request) -> Response:
        try:
            return make(library, request)
        except UsageError as error:
            return _problem(400, str(error))
        except TfserError as error:
            return _problem(500, str(error))
        except FileNotFoundError as error:  # removed while it was read
            return _problem(500, f"{error.filename}: is not there any more; load the page again")
        except Exception as error:  # what was not foreseen: said, and nothing of the inside shown
            line = f"{type(error).__name__}: {first_line(error)}"
            note(f"tfser ui: {request.url.path.rpartition('/')[2] or 'overview'}: {line}")
            return _problem(500, f"this page could not be made ({line})")

    return endpoint


def _page(template: str, here: str, title: str, status: int = 200, **values: Any) -> Response:
    """Return a page of this application."""
    from starlette.responses import HTMLResponse

    text = (
        environment("reports/ui", "reports")
        .get_template(template)
        .render(pages=PAGES, here=here, title=title, version=__version__, **values)
    )
    return HTMLResponse(text.encode(errors="backslashreplace"), status_code=status)


def _problem(status: int, line: str) -> Response:
    return _page("problem.html", "-", "That did not work", status, line=" ".join(line.split()))


async def _nowhere(request: Request, error: Exception) -> Response:
    return _problem(404, "there is no such page")


def _page_number(request: Request) -> int:
    return listing.read_asked({"page": request.query_params.get("page", "")}).page


def _overview(library: Library, request: Request) -> Response:
    with library.reading() as connection:
        return _page("overview.html", "", "Overview", cache=str(library.cache.root), **results_pages.overview(connection))


def _utterances(library: Library, request: Request) -> Response:
    asked = listing.read_asked(request.query_params)
    with library.reading(is_limited=True) as connection:
        listed = listing.list_utterances(connection, asked)
        choices = listing.choices(connection, asked.corpus)
    several = len(choices["corpora"]) > 1
    lines = []
    for row in listed.rows:
        sound = f"sound?{urlencode({'corpus': row['corpus'], 'id': row['utterance_id']})}"
        lines.append(
            (
                {"href": address_of(row["corpus"], row["utterance_id"]), "text": row["utterance_id"]},
                {"audio": sound, "text": f"listen to {row['utterance_id']}"},
                *((row["corpus"],) if several else ()),
                row["label"] or "",
                row["speaker"] or "",
                row["gender"] or "",
                "" if row["duration_s"] is None else f"{row['duration_s']:.2f}",
                "" if row["rms_db"] is None else f"{row['rms_db']:.0f}",
                ", ".join(row["flags"] or ()),
                brief(row["transcript"] or ""),
            )
        )
    first = (listed.page - 1) * asked.size + 1
    shown = f"{first:,} to {first + len(lines) - 1:,} of " if listed.pages > 1 else ""
    corpus = ("corpus",) if several else ()
    table = ReportTable(
        title=f"{shown}{count(listed.total, 'utterance')}",
        columns=("utterance", "sound", *corpus, "label", "speaker", "gender", "seconds", "dB", "flags", "transcript"),
        rows=tuple(lines),
        right=frozenset({"seconds", "dB"}),
    )
    return _page(
        "utterances.html", "utterances", "Utterances", asked=asked, found=listed, table_of=table, choices=choices,
        orders=list(listing.ORDERS), sizes=listing.SIZES, statement=asked.statement(),
    )  # fmt: skip


def _named(request: Request) -> tuple[str, str]:
    name = request.query_params.get("id", "")
    if not name:
        raise UsageError("no id is given: choose one in a list")
    return request.query_params.get("corpus", ""), name


def _utterance(library: Library, request: Request) -> Response:
    with library.reading() as connection:
        row = find_utterance(connection, *_named(request))
        part = utterance_part(library, connection, row, request.query_params.get("features", ""))
    return _page("utterance.html", "utterances", f"Utterance {row['utterance_id']}", **part)


def _sound(library: Library, request: Request) -> Response:
    from starlette.responses import PlainTextResponse
    from starlette.responses import Response as Plain

    try:
        with library.reading() as connection:
            row = find_utterance(connection, *_named(request))
        content = flac_of(row, library.folders)
    except TfserError as error:
        return PlainTextResponse(f"{' '.join(str(error).split())}\n", status_code=404)
    headers = {"accept-ranges": "bytes"}
    try:
        part = part_of(request.headers.get("range"), len(content))
    except ValueError:
        return Plain(status_code=416, headers=headers | {"content-range": f"bytes */{len(content)}"})
    if part is None:
        return Plain(content, media_type="audio/flac", headers=headers)
    headers["content-range"] = f"bytes {part.first}-{part.end - 1}/{len(content)}"
    return Plain(content[part.first : part.end], 206, headers, "audio/flac")


def _experiments(library: Library, request: Request) -> Response:
    selection = request.query_params.get("selection") or "last"
    with library.reading() as connection:
        tables, marks = results_pages.experiment_lists(connection, selection)
        known = results_pages.selections(connection)
    return _page("experiments.html", "experiments", "Experiments", tables=tables, marks=marks, selection=selection, known=known)


def _experiment(library: Library, request: Request) -> Response:
    selection = request.query_params.get("selection") or "last"
    with library.reading() as connection:
        part = results_pages.one_experiment(library, connection, _named(request)[1], selection)
        known = results_pages.selections(connection)
    name = part["one"].experiment
    wrong = f"utterances?{urlencode({'experiment': name, 'outcome': 'wrong'})}"
    title = f"Experiment: {part['title']}"
    return _page(
        "experiment.html", "experiments", title, one=part, selection=selection, known=known, wrong=wrong, experiment_id=name
    )


def _compare(library: Library, request: Request) -> Response:
    selection = request.query_params.get("selection") or "last"
    with library.reading() as connection:
        part = results_pages.compared(library, connection, request.query_params.getlist("e"), selection)
    return _page("compare.html", "experiments", f"Comparison of {len(part['names'])} experiments", selection=selection, **part)


def _audits(library: Library, request: Request) -> Response:
    corpus, protocol = (request.query_params.get(name, "") for name in ("corpus", "protocol"))
    with library.reading() as connection:
        part = results_pages.audits(library, connection, corpus, protocol)
    return _page("audits.html", "audits", "Audits", **part)


def _report(library: Library, request: Request) -> Response:
    """Show the page that `tfser report` writes, as it writes it."""
    from starlette.responses import HTMLResponse

    names = request.query_params.getlist("e")
    selection = request.query_params.get("selection") or "last"
    with library.reading() as connection:
        material = read_material(library.cache, connection, names, selection=selection)
        words = ["tfser report", *map(shlex.quote, names), "--output report.html"]
        words += [f"--selection {shlex.quote(selection)}"] if selection != "last" else []
        wishes = Wishes(experiments=detailed(material, bool(names)), command=" ".join(words))
        with library.drawing:
            text = write_page(connection, material, wishes)
    # The page has a policy of its own, with the one script that it bears.
    headers = {"content-security-policy": "frame-ancestors 'none'; form-action 'none'; base-uri 'none'"}
    return HTMLResponse(text.encode(errors="backslashreplace"), headers=headers)


def _sql(library: Library, request: Request) -> Response:
    query = request.query_params.get("q", "").strip()
    number = _page_number(request)
    shown: dict[str, Any] | None = None
    problem: str | None = None
    if query:
        try:
            with library.reading(is_limited=True) as connection:
                shown = results_pages.answer(connection, query, number)
        except UsageError as error:
            problem = " ".join(str(error).split())
    addresses = {step: f"sql?{urlencode({'q': query, 'page': number + step})}" for step in (-1, 1)}
    return _page("sql.html", "sql", "SQL", 400 if problem else 200, query=query or _EXAMPLE, found=shown, problem=problem,
                 number=number, addresses=addresses)  # fmt: skip
