"""Settings: one place for defaults, unknown keys are errors, TOML there and back."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError, model_validator

from semiscope.config import Settings, read_toml
from semiscope.errors import SemiscopeError, SettingsError


class Optics(Settings):
    dose: float = Field(30.0, gt=0, description="Electrons per pixel.")


class Scan(Settings):
    rows: int = Field(480, ge=1, description="Height of the image.")
    names: tuple[str, ...] = Field(("gap",), description="Classes.")
    seed: int | None = Field(None, description="Seed; none draws one.")
    optics: Optics = Field(Optics(), description="The instrument.")


def test_defaults_and_nested_values():
    scan = Scan.from_dict({"rows": 64, "optics": {"dose": 5}}, "scan.toml")
    assert (scan.rows, scan.optics.dose, scan.names) == (64, 5.0, ("gap",))


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Scan().rows = 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"row": 3}, ["row:", "found 3", "Known settings: rows, names, seed, optics"]),
        ({"rows": 0}, ["rows:", "greater than or equal to 1", "found 0"]),
        ({"rows": "many"}, ["rows:", "integer", "found 'many'"]),
        ({"optics": {"dose": -1}}, ["optics.dose:", "greater than 0", "found -1"]),
        ({"rows": 0, "optics": {"glare": 1}}, ["rows:", "optics.glare:"]),
    ],
)
def test_every_fault_is_named_with_its_source(values, words):
    with pytest.raises(SettingsError) as caught:
        Scan.from_dict(values, "scan.toml")
    message = str(caught.value)
    assert message.startswith("scan.toml: ") and "\n" not in message
    assert all(word in message for word in words), message
    assert isinstance(caught.value, SemiscopeError)


def test_what_contradicts_each_other_is_told_in_the_validator_s_words():
    class Pair(Settings):
        low: int = Field(0, description="Lower end.")
        high: int = Field(1, description="Upper end.")

        @model_validator(mode="after")
        def _in_order(self) -> Pair:
            if self.low > self.high:
                raise ValueError(f"expected low up to high, found {self.low} and {self.high}")
            return self

    with pytest.raises(SettingsError) as caught:
        Pair.from_dict({"low": 3}, "pair.toml")
    assert str(caught.value).startswith(
        "pair.toml: settings: expected low up to high, found 3 and 1. Known settings: "
    )


def test_a_wrong_default_is_an_error_too():
    class Wrong(Settings):
        rows: int = Field(0, ge=1, description="Height.")

    with pytest.raises(ValidationError):
        Wrong()


def test_toml_there_and_back(tmp_path):
    scan = Scan(rows=7, names=("gap", "Brücke"), optics=Optics(dose=0.1))
    path = tmp_path / "scan.toml"
    path.write_text(scan.to_toml(), encoding="utf-8")
    assert Scan.from_toml(path) == scan
    assert "seed" not in read_toml(path)


def test_files_that_are_no_settings(tmp_path):
    missing = tmp_path / "missing.toml"
    with pytest.raises(SettingsError, match=r"missing\.toml: settings file cannot be read"):
        Scan.from_toml(missing)
    with pytest.raises(SettingsError, match="cannot be read"):
        Scan.from_toml(tmp_path)
    for name, data in [("a.toml", b"rows = "), ("b.toml", b"\xff\xfe\x00")]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingsError, match=f"{name}: expected a TOML settings file"):
            Scan.from_toml(tmp_path / name)
