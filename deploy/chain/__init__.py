"""What the service is made of, and whether anything in it is known to be broken.

`make sbom` writes the list, `make audit` asks a service of known vulnerabilities about it. Unlike
the rest of `deploy`, this runs in a `.venv` that has the extra `dev`.
"""
