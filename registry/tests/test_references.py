"""One way to name a version; what can't be found says what is near."""

import pytest

from project.kernel.errors import Invalid, NotFound, NotReady
from project.testing import Cast
from registry.actions import versions
from registry.actions.references import resolve
from registry.tests.conftest import MakeVersion


def test_every_form_of_reference(cast: Cast, make_version: MakeVersion) -> None:
    one, two, three = (make_version(scored={"f1": 0.9}) for _ in range(3))
    versions.promote(one, by=cast.actor("owner"))
    versions.submit(two, by=cast.actor("owner"))
    here = cast.workspace
    assert resolve(here, "intents") == one
    assert resolve(here, "intents@production") == one
    assert resolve(here, "intents@staging") == two
    assert resolve(here, "intents@draft") == three
    assert resolve(here, "intents:3") == three
    assert resolve(here, str(three.pk)) == three
    assert resolve(here, str(one.model_id)) == one
    assert resolve(here, "intents", default_stage="staging") == two


@pytest.mark.parametrize(
    ("reference", "problem", "words"),
    [
        ("intnets", NotFound, "Did you mean 'intents'?"),
        ("zebra", NotFound, "Known: intents"),
        ("intents:9", NotFound, "Its newest is intents:1"),
        ("intents@canary", NotFound, "no stage or alias 'canary'"),
        ("intents", NotReady, r"manage.py promote intents:1\), or name a version: intents:1"),
        ("intents@staging", NotReady, "Name one by its number: intents:1"),
        ("intents:one", Invalid, "is not a reference"),
        ("../etc", Invalid, "is not a reference"),
        ("01942f00-0000-7000-8000-000000000000", NotFound, "no model or version"),
    ],
)
def test_what_is_not_there_says_what_to_do(
    cast: Cast, make_version: MakeVersion, reference: str, problem: type[Exception], words: str
) -> None:
    make_version()
    with pytest.raises(problem, match=words):
        resolve(cast.workspace, reference)


def test_another_workspace_has_none_of_it(cast: Cast, make_version: MakeVersion) -> None:
    version = make_version()
    for reference in ("intents:1", str(version.pk), str(version.model_id)):
        with pytest.raises(NotFound):
            resolve(cast.elsewhere, reference)
