"""``dao-ase doctor``: what this installation is and whether it works."""

from __future__ import annotations

import click

MARKS = {"ok": ("✓", "green"), "absent": ("–", "yellow"), "broken": ("✗", "red")}


@click.command()
@click.option("--no-self-test", is_flag=True, help="Only look, compute nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(no_self_test: bool, as_json: bool) -> None:
    """Check the installation, and say what to do about it.

    Looks at versions, devices, extras, weights and programs, and runs a self-test of a few seconds.
    """
    from dao_ase import doctor as examination

    findings = []
    group = ""
    for finding in examination.examine(self_test=not no_self_test):
        findings.append(finding)
        if as_json:
            continue
        if finding.group != group:
            group = finding.group
            click.secho(group, bold=True)
        mark, color = MARKS[finding.state]
        click.echo(f"  {click.style(mark, fg=color)} {finding.name:<14} {finding.detail}")
    if as_json:
        click.echo(examination.as_json(findings))
    broken = [finding.name for finding in findings if finding.state == "broken"]
    if broken:
        raise click.ClickException(f"not in order: {', '.join(broken)}")
