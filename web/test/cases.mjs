// What the pages promise, case by case, in order: each stands on the ones before. They are in cases/, by page.
import * as alerts from "./cases/alerts.mjs";
import * as big from "./cases/big.mjs";
import * as charts from "./cases/charts.mjs";
import * as connections from "./cases/connections.mjs";
import * as cutover from "./cases/cutover.mjs";
import * as demo from "./cases/demo.mjs";
import * as data from "./cases/data.mjs";
import * as everywhere from "./cases/everywhere.mjs";
import * as files from "./cases/files.mjs";
import * as keyboard from "./cases/keyboard.mjs";
import * as make from "./cases/new.mjs";
import * as mend from "./cases/mend.mjs";
import * as news from "./cases/news.mjs";
import * as overview from "./cases/overview.mjs";
import * as pipeline from "./cases/pipeline.mjs";
import * as quarantine from "./cases/quarantine.mjs";
import * as reference from "./cases/reference.mjs";
import * as roles from "./cases/roles.mjs";
import * as schedules from "./cases/schedules.mjs";
import * as signIn from "./cases/sign-in.mjs";
import * as tables from "./cases/tables.mjs";
import * as tabs from "./cases/tabs.mjs";

export default [
  signIn.a_token_is_asked_for_and_a_wrong_one_refused,
  overview.an_empty_server_says_what_to_do,
  make.u02_faults_are_mended_by_the_sql_shown_and_seen_by_themselves,
  tables.u01_numbers_move_without_loading_the_page_anew,
  overview.u01_the_overview_is_live_and_its_title_says_how_it_is,
  overview.pipelines_are_chosen_by_their_tags,
  pipeline.both_sides_are_compared_from_the_page,
  pipeline.what_differs_does_not_look_like_success_and_is_repaired_from_the_page,
  pipeline.a_verification_under_way_is_shown_and_given_up,
  pipeline.a_copy_that_could_not_be_compared_is_told_until_it_was,
  tables.u04_a_resync_shows_its_effect_and_readers_never_see_fewer_rows,
  data.rows_of_both_sides_are_seen_side_by_side,
  pipeline.log_lines_come_as_they_are_written,
  tables.u03_a_table_in_quarantine_leaves_the_others_alone_and_comes_back,
  quarantine.u03_rows_in_quarantine_are_shown_with_what_each_action_does,
  connections.slots_are_shown_with_who_reads_them_and_orphans_told_from_others,
  connections.connections_by_name_are_made_tested_changed_and_deleted,
  schedules.schedules_are_told_in_words_and_each_action_does_what_it_says,
  alerts.what_fires_is_told_with_its_rule_and_whether_it_was_sent,
  tables.u11_hostile_names_are_text_and_their_tables_obey,
  pipeline.the_past_is_drawn_and_can_be_read_as_a_table,
  pipeline.u06_what_is_not_known_is_unknown_and_never_0,
  charts.u08_labels_and_lines_of_charts_are_readable_in_both_themes,
  tabs.u16_two_tabs_share_one_stream_and_each_has_a_look_of_its_own,
  tabs.u16_a_page_that_stays_open_does_not_grow,
  news.u05_without_the_server_everything_stays_with_its_age,
  news.without_news_the_server_is_asked_and_the_page_says_so,
  pipeline.a_report_is_one_document_that_needs_nothing_else,
  pipeline.events_and_the_definition_are_shown_without_secrets,
  files.a_file_that_says_something_else_than_what_runs_is_shown,
  reference.the_api_is_described_by_the_server_itself,
  mend.a_gap_is_told_and_bridged_from_the_page,
  cutover.a_cutover_is_rehearsed_asked_for_and_told_with_its_downtime,
  roles.u14_pages_and_api_give_each_role_the_same_and_nobody_what_is_masked,
  signIn.tokens_are_shown_once_and_a_viewer_has_no_buttons,
  keyboard.u09_keys_go_where_they_say,
  keyboard.u09_a_pipeline_is_made_paused_compared_loaded_anew_and_deleted_by_the_keyboard,
  keyboard.u09_every_page_is_gone_through_in_the_order_it_is_read,
  everywhere.u10_every_page_fits_into_320_pixels,
  everywhere.no_unit_is_parted_from_its_number_however_wide_the_page_is,
  everywhere.u13_longer_and_accented_text_is_not_cut_off_anywhere,
  everywhere.u15_nobody_else_was_asked_and_no_policy_broken,
  big.u12_five_hundred_pipelines_and_a_thousand_tables_are_shown_within_the_budget,
  demo.the_demo_is_broken_from_its_page_which_shows_what_was_lost_and_doubled,
];
