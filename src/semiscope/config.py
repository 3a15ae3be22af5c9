"""One base for all settings: a frozen model beside what it configures, with the only defaults."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from semiscope.errors import SettingsError


class Settings(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error.

    Each field carries a one-line description, which is its help text on the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: Path | str) -> Self:
        """Checked settings from plain values.

        Args:
            values: Names and values; nested settings are nested dicts.
            source: Where the values came from, for the message.

        Raises:
            SettingsError: A name is unknown or a value is out of range; every fault is named.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'settings'}: {fault(e)}"
                for e in error.errors(include_url=False)
            )
            known = ", ".join(cls.model_fields)
            raise SettingsError(f"{source}: {faults}. Known settings: {known}") from None

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Settings from a TOML file.

        Raises:
            SettingsError: The file is missing, is not TOML, or holds a fault.
        """
        return cls.from_dict(read_toml(path), path)

    def to_toml(self) -> str:
        """The settings as TOML text; a setting that is None is left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def fault(error: ErrorDetails) -> str:
    """One of a validation's faults in words.

    A validator of ours says itself what was expected and found; for the others the value is added.
    """
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "missing":
        return error["msg"]
    return f"{error['msg']}, found {error['input']!r}"


def read_toml(path: Path) -> dict[str, Any]:
    """The plain values of a TOML file.

    Raises:
        SettingsError: The file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: settings file cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: expected a TOML settings file, found: {error}") from None
