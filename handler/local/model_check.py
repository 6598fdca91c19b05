"""Whether workers could boot their model, told before the first of them is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.errors import InvalidModel

_PREFIX: Final = "PILOTLIGHT_"

_NOT_INHERITED: Final[dict[str, object]] = {"port": 1, "health_port": 1}
"""Settings that are not read here, as no worker finds this process's (handler/local/processes.py). A Kubernetes service
of the name `pilotlight` makes a URL of PILOTLIGHT_PORT."""


def check_model(variables: Mapping[str, str]) -> None:
    """Read the model's files as a boot would, without torch. What only the hub can tell is left to the workers.

    Args:
        variables: of the workers, that win over those of this process.

    Raises:
        PilotlightError: why they could not boot, in one line.
    """
    from engine.boot import check_files
    from engine.source import find_settled
    from handler.settings import read_settings

    given = {name.removeprefix(_PREFIX).lower(): value for name, value in variables.items()}
    config = read_settings(**_NOT_INHERITED | given).engine_config()
    try:
        folder = find_settled(config.model, config.revision)
        if folder is not None:
            check_files(config, folder)
    except OSError as error:
        raise InvalidModel(f"{config.model} cannot be read: {error}") from None
