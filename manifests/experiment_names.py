"""Names that people give to experiments, beside the ids that experiments have by their configuration.

What comes in: a name and an experiment. What goes out: `names.json` in the cache, sealed, and the experiment that a name
means. A name changes nothing that an experiment is: the same configuration under another name finds the same runs.
"""

from __future__ import annotations

from tfser.manifests.cache import Cache, check_name
from tfser.manifests.errors import DamagedError, MissingFileError, UsageError
from tfser.manifests.notes import note

FILE = "names.json"


def names_of(cache: Cache) -> dict[str, str]:
    """Return the experiment of each name; none where nobody gave one, or the file is damaged, which is said."""
    path = cache.root / FILE
    try:
        stored = cache.read_json(path)
    except MissingFileError:
        return {}
    except DamagedError as error:
        note(f"{error}; names that were given are lost, experiments are not")
        return {}
    return {str(name): str(experiment) for name, experiment in stored.items()} if isinstance(stored, dict) else {}


def give_name(cache: Cache, name: str, experiment: str) -> None:
    """Give a name to an experiment.

    Raises:
        UsageError: if it cannot be a name, or means another experiment already.
    """
    check_name("experiment", name)
    with cache.lock("names"):
        stored = names_of(cache)
        if stored.get(name, experiment) != experiment:
            raise UsageError(
                f"--name {name}: means {stored[name]} already; take another, or `tfser runs name {name} --remove` first"
            )
        if name not in stored:
            cache.write_json(cache.root / FILE, {**stored, name: experiment})


def take_name(cache: Cache, name: str) -> str:
    """Take a name back; return the experiment that it meant.

    Raises:
        UsageError: if nothing is called so.
    """
    with cache.lock("names"):
        stored = names_of(cache)
        if name not in stored:
            raise UsageError(f"no experiment is called {name!r}; named are {', '.join(sorted(stored)) or 'none'}")
        experiment = stored.pop(name)
        cache.write_json(cache.root / FILE, stored)
    return experiment


def meant_by(cache: Cache, text: str) -> str:
    """Return the experiment that a text is the name of, else the text itself: an id, or a piece of one."""
    return names_of(cache).get(text, text)
