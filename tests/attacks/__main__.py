"""Print the table: python -m tests.attacks"""

from __future__ import annotations

from tests.attacks.table import TABLE


def main() -> None:
    for number, row in enumerate(TABLE, 1):
        tried, answered, spared = row.line()
        print(f"{number}. {row.name}\n   tried:    {tried}\n   answered: {answered}\n   not:      {spared}")


if __name__ == "__main__":
    main()
