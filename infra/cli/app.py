"""The entry point `opsd`: its commands, and every error in words. Nothing heavy is imported before a command needs it."""

import errno
import os
import sys
from collections.abc import Sequence

import click

from infra.cli import campaigns, choices, handing_out, jobs, machine, observing, versions
from infra.cli.command import INTERRUPTED

_EPILOG = """\b
Examples:
  opsd up                                the servers of this machine, and a worker
  opsd check demo                        what a campaign would do, tried for two minutes
  opsd run demo                          a campaign, from nothing to a promoted or refused version
  opsd run mine.yaml iterations=2        settings from a file, and some of their own
  opsd answers demo                      what the model wrote, before and after
  opsd export demo --to folder           the champion's folder, for transformers or vLLM

\b
Completion of commands, options, recipes, files and settings: a line for the start-up file of the shell.
  bash (~/.bashrc)                   eval "$(_OPSD_COMPLETE=bash_source opsd)"
  zsh (~/.zshrc)                     eval "$(_OPSD_COMPLETE=zsh_source opsd)"
  fish (~/.config/fish/config.fish)  _OPSD_COMPLETE=fish_source opsd | source

\b
Everything here can be done in Prefect and MLflow too: docs/cli.md says how.
"""


class _Commands(click.Group):
    """Commands in the order in which they are added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_EPILOG)
@click.version_option(package_name="opsd", prog_name="opsd")
def cli() -> None:
    """On-policy self-distillation that ships a new version of a model only when it is really better."""


for _command in (
    *(campaigns.check, campaigns.run),
    *(observing.status, observing.logs, observing.cancel),
    *(versions.versions, versions.promote, versions.rollback, versions.approve, versions.refuse, versions.answers),
    *(handing_out.export, handing_out.serve, handing_out.chat),
    *(choices.recipes, choices.config),
    *(jobs.schedule, jobs.pretrain, jobs.study, jobs.replay, jobs.gc),
    *(machine.up, machine.down, machine.login, machine.notify, machine.doctor),
):
    cli.add_command(_command)


def run(arguments: Sequence[str]) -> int:
    """One command; returns the exit status."""
    try:
        status = cli.main(args=list(arguments), prog_name="opsd", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and error.ctx and any(p.name == "settings" for p in error.ctx.command.params):
            click.echo(f"Settings have no dashes: opsd {error.ctx.info_name} ... {_setting(error.option_name)}=VALUE", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from opsd_core.errors import OpsdError
        from tasks.runtime.secrets import redact, redact_error

        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, OpsdError):
            click.echo(f"opsd: {error.filename or 'the output'} cannot be written: {error.strerror}. Free space there.", err=True)
            return 1
        if isinstance(error, OpsdError):
            click.echo(f"opsd: {redact(str(error))}", err=True)
            return 1
        if os.environ.get("OPSD_TRACEBACK"):
            redact_error(error)
            raise
        said = redact(str(error)).strip().splitlines() or ["no message"]
        click.echo(
            f"opsd: unexpected {type(error).__name__}: {said[0][:300]}. This is a fault of opsd, not of what was asked for; with "
            "OPSD_TRACEBACK=1 the same command says where.",
            err=True,
        )
        return 1
    return status if isinstance(status, int) else 0


def _setting(option: str) -> str:
    """The setting that was probably meant by an option that does not exist."""
    from opsd_core.config import CampaignConfig
    from opsd_core.config.refusals import nearest, paths_of

    given, known = option.lstrip("-").replace("-", "_"), list(paths_of(CampaignConfig))
    return given if given in known else nearest(given, known) or given


def main() -> None:
    """The entry point."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
