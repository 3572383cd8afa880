"""The image, built by Debian's buildah and run by podman as compose describes it: `make image`. No registry is asked.

What stands in for others' images is made here: Debian with Python by debootstrap, uv from its wheel. PostgreSQL and Redis are
the embedded servers, on loopback addresses of their own.
"""
