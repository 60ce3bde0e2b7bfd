//! End to end, with real Docker, Odoo, PostgreSQL and Traefik. See `isyone_tests::e2e` for how they are run.

mod access;
mod adversary;
mod backups;
mod bad_input;
mod bombard;
mod browser;
mod chaos;
mod crashes;
mod data;
mod fleet;
mod hosts;
mod https;
mod isolation;
mod live_moves;
mod mail;
mod main_job;
mod many;
mod metrics;
mod monitoring;
mod moves;
mod pages;
mod reboot;
mod standbys;
mod visitors;
mod walk;
mod wanted;
