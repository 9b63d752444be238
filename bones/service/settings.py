"""What whoever runs the service may set: each field also as an environment variable, such as SKIAGRAM_MAX_UPLOAD_MB."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bones.predict import OperatingPoint
from shared.errors import SetupError

PREFIX = "SKIAGRAM_"
MEBIBYTE = 1 << 20


class Settings(BaseSettings):
    """Limits, keys and models; the defaults suit one person on their own machine."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys, parted by commas: as they are, or as ``sha256:`` and their hash, which `bones serve --new-key` prints."""
    allow_open: bool = False
    """Answer everybody who can reach the service, even though no key is set."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Other web sites, parted by commas, whose pages may call this service; none by default."""

    session_secret: Annotated[SecretStr, Field(min_length=32)] | None = None
    """Signs the cookie of the pages, 32 characters at least, alike on all machines; random if left out, so that a
    restart signs people out."""
    session_hours: PositiveInt = 12
    """How long the cookie of the pages is good."""

    model: Path | None = None
    """The detector's ONNX file, or a folder of models; the shipped one if left out."""
    gate: Path | None = None
    """The gate's ONNX file, or a folder of models; the shipped one if left out."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Where the networks run: auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "int8"] = "auto"
    """Which shipped detector; auto is INT8 on the CPU."""
    operating_point: OperatingPoint = "balanced"
    """How much is reported: screening reports more, specific less."""
    preload: bool = False
    """Load the detector at start, not on the first picture that passes the gate."""
    workers: NonNegativeInt = 0
    """Processes that look at pictures, one picture each at a time; 0 is one for each processor, at most four."""
    threads: NonNegativeInt = 0
    """Threads of each of them; 0 shares the processors out."""
    worker_memory_mb: NonNegativeInt = 0
    """What a picture may take in each of them, in MiB, on Linux; 0 shares half of the memory out, 1024 at least."""

    max_upload_mb: PositiveInt = 64
    """Largest picture, in MiB; an uncompressed radiograph of 16 bits has 20 to 40."""
    max_pixels: PositiveInt = 100_000_000
    """Largest picture, in pixels; more are refused before they are decoded."""
    max_queue: NonNegativeInt = 32
    """Pictures that may wait while others are looked at; who comes then is sent away at once. Where there are several
    keys, none of them takes more than half of all places."""
    picture_seconds: PositiveFloat = 30.0
    """What one picture may take once its turn has come."""
    load_seconds: PositiveFloat = 120.0
    """What loading a network may take."""
    upload_seconds: PositiveFloat = 60.0
    """What the arrival of a request may take."""
    rate_per_minute: PositiveFloat = 600.0
    """Requests that each key may make in a minute; as many at once."""
    stop_seconds: PositiveInt = 35
    """What a stop waits for requests that run; what takes longer is cut off."""

    jobs_url: SecretStr | None = None
    """Where jobs are kept: postgresql://USER:PASSWORD@HOST/DATABASE, or sqlite:///FILE; this user's own if left out."""
    job_threads: PositiveInt = 1
    """Pictures of jobs that this server looks at at a time."""
    max_job_queue: PositiveInt = 2000
    """Pictures of jobs that may wait, of all keys."""
    max_job_queue_mb: PositiveInt = 20_480
    """Size of all of them together, in MiB; the jobs' database has to have room for it."""
    job_tries: PositiveInt = 5
    """How often a picture of a job is begun before it is given up, since whoever looked at it died each time."""
    job_hours: PositiveFloat = 24.0
    """When a job is deleted, with its results."""
    max_job_files: PositiveInt = 500
    """Pictures in one job."""
    max_job_mb: PositiveInt = 256
    """Size of all pictures of one job together, in MiB."""

    @field_validator("api_keys", "cors_origins", mode="before")
    @classmethod
    def _parted(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def max_upload_bytes(self) -> int:
        """Largest picture, bytes."""
        return self.max_upload_mb * MEBIBYTE

    @property
    def max_job_bytes(self) -> int:
        """All pictures of a job together, bytes."""
        return self.max_job_mb * MEBIBYTE


def read_settings(**given: Any) -> Settings:
    """Read the settings from the environment; what is ``given`` comes first.

    Raises:
        SetupError: a variable holds what its setting cannot be; a key's value is never shown.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else "settings"
        shown = "" if field in ("api_keys", "jobs_url", "session_secret") else f", not {first['input']!r}"
        name = PREFIX + field.upper()
        raise SetupError(f"{name}: {str(first['msg']).lower()}{shown}; correct or unset it") from None
