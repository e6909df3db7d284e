"""What all kits share: which plugin is checked, how a check may be left out, and the checks that every plugin has."""

from __future__ import annotations

import difflib
import functools
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar
from unittest import SkipTest

from pydantic import ValidationError

from meds.core.errors import MedsError
from meds.core.registry import ENTRY_POINT_GROUP as GROUP
from meds.core.registry import Options, Registration, Registry
from meds.testing.registries import with_encoders
from meds.testing.surroundings import own_surroundings

KitT = TypeVar("KitT", bound="Kit")

OWN_PACKAGE = "meds.testing"
CHECK = "test_"


class CheckError(AssertionError):
    """What a check found wrong, in a sentence; told from an assertion that fails inside a plugin."""


def require(condition: bool, sentence: str) -> None:
    """CheckError with the sentence unless the condition holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise CheckError(sentence)


def check(method: Callable[[KitT], None]) -> Callable[[KitT], None]:
    """Mark a method as a check: it runs in surroundings of its own and fails with a CheckError only."""

    @functools.wraps(method)
    def checked(self: KitT) -> None:
        with own_surroundings():
            try:
                method(self)
            except (CheckError, SkipTest):
                raise
            except (Exception, SystemExit) as error:
                raise CheckError(f"{self.title} raised {described(error)}") from error

    return checked


def described(error: BaseException) -> str:
    """Type and text of an error, as the end of a sentence; also the line that raised it, unless it was on purpose."""
    frames = [] if isinstance(error, MedsError) else traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


class Kit:
    """Base of all kits. A plugin's test module subclasses the kit of its kind; every method `test_*` is a check.

    Attributes:
        name: the plugin's name in a spec.
        options: options that make it quick on a CPU; what is left out keeps its default.
        not_checked: checks that are left out or overridden, each with its reason.
    """

    __test__ = False
    kind: ClassVar[str]
    contract: ClassVar[type]
    name: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    not_checked: ClassVar[Mapping[str, str]] = {}
    checks: ClassVar[Mapping[str, Callable[[Any], None]]] = {}
    """The checks of the kit by name, as meds has them."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__module__.startswith(f"{OWN_PACKAGE}."):
            cls.__test__ = False
            cls.checks = {name: getattr(cls, name) for name in dir(cls) if name.startswith(CHECK)}
            return
        # pytest would take over the False of the kit, and collect nothing.
        cls.__test__ = bool(cls.__dict__.get("__test__", True))
        _check_reasons(cls)
        for name in cls.checks:
            _guard(cls, name)

    def registry(self) -> Registry:
        """Where the plugin is looked up: all installed plugins and the kit's own encoders."""
        return with_encoders()

    @property
    def title(self) -> str:
        """The plugin as the subject of a sentence."""
        return f"The {self.kind} '{self.name}'"

    @property
    def lower_title(self) -> str:
        """The plugin as the object of a sentence."""
        return f"the {self.kind} '{self.name}'"

    def registration(self) -> Registration:
        """The plugin's entry in the registry."""
        require(bool(self.name), f"{type(self).__name__} must say which plugin it checks: set `name`.")
        return self.registry().get(self.kind, self.name)

    def implementation(self) -> Any:
        """The plugin's class."""
        return self.registration().load()

    def made_options(self, **changes: Any) -> Any:
        """The options, validated, with some of them changed."""
        return self.registration().plugin.options.model_validate({**self.options, **changes})

    def block(self, **changes: Any) -> dict[str, Any]:
        """The plugin as a block of a spec."""
        return {"type": self.name, **self.options, **changes}

    @check
    def test_it_loads(self) -> None:
        """The plugin is registered with a sentence about it, loads, and is of the class that its kind asks for."""
        summary = self.registration().plugin.summary
        require(summary.endswith("."), f"{self.title} needs a summary that is a sentence, not {summary!r}.")
        found = self.implementation()
        wanted = f"{self.contract.__name__} of meds.api"
        require(isinstance(found, type), f"{self.title} loads {found!r}, which is no class; it must be a {wanted}.")
        require(issubclass(found, self.contract), f"{self.title} ({found.__name__}) must be a subclass of {wanted}.")
        model = self.registration().plugin.options
        require(issubclass(model, Options), f"{self.title} needs options that are a subclass of Options of meds.api.")

    @check
    def test_unknown_options_are_refused(self) -> None:
        """A misspelt option is an error, and no option that is accepted and ignored."""
        self.made_options()
        try:
            self.made_options(no_such_option=1)
        except ValidationError:
            return
        raise CheckError(
            f"{self.title} accepts the option 'no_such_option': its options must forbid unknown keys, as Options does."
        )

    @check
    def test_options_survive_a_spec(self) -> None:
        """The options come back equal from the resolved spec that a run writes."""
        options = self.made_options()
        again = type(options).model_validate(options.model_dump(mode="json"))
        require(
            options.model_dump(mode="json") == again.model_dump(mode="json"),
            f"{self.title} does not get its options back from a written spec: {options!r} becomes {again!r}.",
        )

    @check
    def test_options_are_described(self) -> None:
        """Every option has a description, which is all that users are told of it."""
        fields = self.registration().plugin.options.model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        many = len(bare) != 1
        require(
            not bare,
            f"{self.title} does not say what its option{'s' * many} {', '.join(bare)} mean{'s' * (not many)}: write "
            "Field(description=...).",
        )

    @check
    def test_listing_imports_no_torch(self) -> None:
        """The modules that its package registers import no torch, so that listing plugins stays quick."""
        package = self.registration().package
        if not any(point.dist is not None and point.dist.name == package for point in entry_points(group=GROUP)):
            raise SkipTest(f"no installed package registers it ('{package}')")
        guilty = modules_that_import_torch(package)
        require(
            not guilty,
            f"The package {package} imports torch as soon as its plugins are listed, in {', '.join(guilty)}: keep the "
            "hook and the options in a module that imports no torch, and the implementation in another.",
        )


@functools.cache
def modules_that_import_torch(package: str) -> tuple[str, ...]:
    """The modules that a package registers and whose import, alone in a fresh Python, brings torch with it."""
    code = (
        "import sys\nfrom importlib.metadata import entry_points\n"
        f"for point in entry_points(group={GROUP!r}):\n"
        f"    if point.dist is not None and point.dist.name == {package!r} and 'torch' not in sys.modules:\n"
        "        point.load()\n"
        "        if 'torch' in sys.modules: print(point.value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"The package {package} cannot be listed: {done.stderr.strip().splitlines()[-1]}")
    return tuple(done.stdout.split())


def _check_reasons(kit: type[Kit]) -> None:
    if not isinstance(kit.not_checked, Mapping):
        raise TypeError(f"{kit.__name__}.not_checked must be a table of checks and reasons.")
    for name, reason in kit.not_checked.items():
        if name not in kit.checks:
            near = difflib.get_close_matches(name, kit.checks, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise TypeError(f"{kit.__name__}.not_checked: the kit has no check '{name}'{hint}")
        if not isinstance(reason, str) or not reason.strip():
            raise TypeError(f"{kit.__name__}.not_checked: leaving out or overriding '{name}' needs a reason.")


def _guard(kit: type[Kit], name: str) -> None:
    """Let a check be what it is in meds, unless there is a reason; a check with a reason says it when it is called."""
    found, own = getattr(kit, name, None), kit.checks[name]
    if name in kit.not_checked:
        if found is None or found is own or reason_of(found):
            setattr(kit, name, _left_out(name, kit.not_checked[name]))
    elif reason_of(found):
        # A base class of the plugin's tests left it out, and this class does not.
        setattr(kit, name, own)
    elif found is not own:
        done = "removes" if found is None else "overrides"
        raise TypeError(
            f'{kit.__name__} {done} the check {name}: give the reason, not_checked = {{"{name}": "why"}}, or leave '
            "the check alone."
        )


def _left_out(name: str, reason: str) -> Callable[[Kit], None]:
    def left_out(_: Kit) -> None:
        # pytest and unittest both take this for a skipped test.
        raise SkipTest(reason)

    left_out.__name__, left_out.__doc__ = name, f"Left out: {reason}"
    left_out.left_out_because = reason  # type: ignore[attr-defined]
    return left_out


def reason_of(found: object) -> str | None:
    """Why a check is left out, None if it is not."""
    reason: str | None = getattr(found, "left_out_because", None)
    return reason
