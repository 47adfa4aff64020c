"""Paths on disks and in object stores, locks, downloads and the cache.

May import: errors.
"""
