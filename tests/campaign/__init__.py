"""Random growths, schedules, verifications, tamperings and formats, judged by torch and transformers alone.

python -m tests.campaign --minutes 60
"""
