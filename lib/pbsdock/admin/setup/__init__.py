"""Install a version of pbsdock beside the one in force, exchange them, go back, check, and take everything out again.

Only the standard library is imported here: ``install.sh`` runs these modules from the checkout, before there is
anything of the program's own to import. Layout below the prefix::

    versions/VERSION-HASH/   a version: virtual environment, hooks, commands, paths.json; never changed once it is whole
    current, previous        links to the version in force and to the one before
    hooks/, bin/             small files that stay the same and go through ``current``
"""
