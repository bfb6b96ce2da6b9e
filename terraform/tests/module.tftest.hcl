# Carried out by `terraform test`, with the provider's schema and without AWS.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = {
      partition = "aws"
    }
  }
  mock_data "aws_caller_identity" {
    defaults = {
      account_id = "123456789012"
    }
  }
  mock_data "aws_region" {
    defaults = {
      region = "eu-west-1"
    }
  }
}

variables {
  name           = "orders"
  code_s3_bucket = "releases"
  code_s3_key    = "nlb-hostname-targets.zip"
  bindings = {
    orders = {
      hostname         = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"
      target_group_arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
    }
  }
}

run "one_database" {
  assert {
    condition = jsondecode(aws_lambda_function.this.environment[0].variables.BINDINGS) == [{
      hostname         = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"
      ownership        = "shared"
      target_group_arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
    }]
    error_message = "A field without a value must not be in BINDINGS."
  }

  assert {
    condition     = aws_lambda_function.this.environment[0].variables.METRICS == "cloudwatch" && aws_lambda_function.this.environment[0].variables.DISCOVERY == "off"
    error_message = "Outside a VPC metrics go to CloudWatch."
  }

  assert {
    condition     = length(aws_lambda_function.this.vpc_config) == 0 && length(aws_security_group.function) == 0
    error_message = "It runs in no VPC where no subnets are given."
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.rds_events.event_pattern)["$or"][0].detail.EventCategories == ["failover", "availability"]
    error_message = "Without databases the rule is about all of the Region."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.no_healthy_target["orders"].dimensions == tomap({ TargetGroup = "targetgroup/orders/0123456789abcdef" })
    error_message = "The dimension must be what AWS itself uses."
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.no_healthy_target["orders"].alarm_actions) == 0
    error_message = "Without a topic nobody is told."
  }

  assert {
    condition     = output.role_arn == aws_iam_role.function[0].arn
    error_message = "The output names the role that is made."
  }

  assert {
    condition     = aws_lambda_function.this.tags == tomap({ Application = "nlb-hostname-targets" })
    error_message = "Everything is tagged."
  }
}

run "two_databases_and_all_settings" {
  variables {
    bindings = {
      orders = {
        hostname                 = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com"
        target_group_arn         = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
        port                     = 5432
        ownership                = "exclusive"
        deregister_after_seconds = 0
        lookups                  = 50
      }
      stock = {
        hostname          = "stock.example.com"
        target_group_arn  = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/stock/fedcba9876543210"
        load_balancer_arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/net/stock/0011223344556677"
      }
    }
    database_arns           = ["arn:aws:rds:eu-west-1:123456789012:db:orders", "arn:aws:rds:eu-west-1:123456789012:cluster:stock"]
    discover_by_tags        = true
    alarm_topic_arn         = "arn:aws:sns:eu-west-1:123456789012:alarms"
    vpc_id                  = "vpc-01234567"
    function_subnet_ids     = ["subnet-01234567", "subnet-89abcdef"]
    allowed_cidrs           = ["10.0.1.0/24", "10.0.2.0/24"]
    allowed_hostnames       = ["*.rds.amazonaws.com", "stock.example.com"]
    dns_servers             = ["10.0.0.2", "[fd00::2]:5353"]
    poll_interval_seconds   = 60
    tags                    = { Team = "orders" }
    code_signing_config_arn = "arn:aws:lambda:eu-west-1:123456789012:code-signing-config:csc-01234567890abcdef"
  }

  assert {
    condition = jsondecode(aws_lambda_function.this.environment[0].variables.BINDINGS)[0] == {
      hostname                 = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com"
      target_group_arn         = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
      port                     = 5432
      ownership                = "exclusive"
      deregister_after_seconds = 0
      lookups                  = 50
    }
    error_message = "Numbers must stay numbers."
  }

  assert {
    condition = tomap({ for name, value in aws_lambda_function.this.environment[0].variables : name => value if name != "BINDINGS" }) == tomap({
      ALLOWED_CIDRS         = "10.0.1.0/24,10.0.2.0/24"
      ALLOWED_HOSTNAMES     = "*.rds.amazonaws.com,stock.example.com"
      DISCOVERY             = "tags"
      DNS_SERVERS           = "10.0.0.2,[fd00::2]:5353"
      METRICS               = "emf"
      POLL_INTERVAL_SECONDS = "60"
    })
    error_message = "Lists are comma-separated, and in a VPC metrics go through the log."
  }

  assert {
    condition     = toset(aws_lambda_function.this.vpc_config[0].security_group_ids) == toset([aws_security_group.function[0].id])
    error_message = "Its security group is made where none is given."
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.rds_events.event_pattern)["$or"][0].resources == ["arn:aws:rds:eu-west-1:123456789012:db:orders", "arn:aws:rds:eu-west-1:123456789012:cluster:stock"]
    error_message = "The rule names the databases."
  }

  assert {
    condition     = keys(aws_cloudwatch_metric_alarm.no_healthy_target) == ["orders", "stock"] && length(aws_cloudwatch_metric_alarm.found_no_healthy_target) == 1
    error_message = "Each binding has its alarm, and those that are found have one."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.no_healthy_target["stock"].namespace == "AWS/NetworkELB" && aws_cloudwatch_metric_alarm.no_healthy_target["stock"].dimensions.LoadBalancer == "net/stock/0011223344556677"
    error_message = "Where the load balancer is known, its own metric counts."
  }

  assert {
    condition     = tolist(aws_cloudwatch_metric_alarm.function_errors.alarm_actions) == tolist(["arn:aws:sns:eu-west-1:123456789012:alarms"])
    error_message = "The topic is told."
  }

  assert {
    condition     = aws_lambda_function.this.tags == tomap({ Application = "nlb-hostname-targets", Team = "orders" })
    error_message = "Tags of one's own are added."
  }
}

run "a_role_of_ones_own" {
  variables {
    role_arn = "arn:aws:iam::123456789012:role/function"
  }

  assert {
    condition     = length(aws_iam_role.function) + length(aws_iam_role_policy.function) + length(aws_iam_role_policy.schedule) == 0
    error_message = "No role is made beside one's own."
  }

  assert {
    condition     = output.role_arn == "arn:aws:iam::123456789012:role/function" && aws_scheduler_schedule.this.target[0].role_arn == output.role_arn
    error_message = "It is the schedule's, too."
  }
}

run "nothing_but_tags" {
  variables {
    bindings          = {}
    discover_by_tags  = true
    allowed_hostnames = ["*.rds.amazonaws.com"]
  }

  assert {
    condition     = aws_lambda_function.this.environment[0].variables.BINDINGS == "" && length(aws_cloudwatch_metric_alarm.found_no_healthy_target) == 1
    error_message = "Without bindings the function goes by tags alone."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.not_running.metric_name == "Invocations" && aws_cloudwatch_metric_alarm.not_running.treat_missing_data == "breaching"
    error_message = "Silence raises an alarm."
  }
}

run "a_target_group_of_the_same_configuration" {
  command = plan

  module {
    source = "./examples/privatelink"
  }

  variables {
    code_path                  = "README.md"
    hostname                   = "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"
    port                       = 5432
    database_arns              = ["arn:aws:rds:eu-west-1:123456789012:db:orders"]
    vpc_id                     = "vpc-01234567"
    subnet_ids                 = ["subnet-01234567", "subnet-89abcdef"]
    database_security_group_id = "sg-01234567"
    allowed_principals         = ["arn:aws:iam::210987654321:root"]
    alarm_topic_arn            = "arn:aws:sns:eu-west-1:123456789012:alarms"
    private_dns_name           = "orders.db.example.com"
    supported_regions          = ["us-east-1"]
  }

  assert {
    condition     = aws_lb.database.internal && aws_lb_listener.database.port == 5432
    error_message = "The load balancer is internal and listens on the database's port."
  }

  assert {
    condition     = aws_vpc_endpoint_service.database.supported_regions == toset(["eu-west-1", "us-east-1"]) && length(aws_vpc_endpoint_connection_notification.database) == 1
    error_message = "Its own Region stays among those that may connect, and the topic is told."
  }
}

run "a_name_that_is_too_long_for_a_load_balancer" {
  command = plan

  module {
    source = "./examples/privatelink"
  }

  variables {
    name                       = "orders-of-all-customers-everywhere"
    code_path                  = "README.md"
    hostname                   = "orders.example.com"
    port                       = 5432
    vpc_id                     = "vpc-01234567"
    subnet_ids                 = ["subnet-01234567"]
    database_security_group_id = "sg-01234567"
  }
  expect_failures = [var.name]
}

run "tags_without_bounds" {
  command = plan
  variables {
    discover_by_tags = true
  }
  expect_failures = [var.allowed_hostnames]
}

run "nothing_to_follow" {
  command = plan
  variables {
    bindings = {}
  }
  expect_failures = [var.bindings]
}

run "no_code" {
  command = plan
  variables {
    code_s3_bucket = ""
    code_s3_key    = ""
  }
  expect_failures = [var.code_s3_bucket]
}

run "code_from_two_places" {
  command = plan
  variables {
    code_path = "README.md"
  }
  expect_failures = [var.code_s3_bucket]
}

run "a_bucket_without_a_key" {
  command = plan
  variables {
    code_s3_key = ""
  }
  expect_failures = [var.code_s3_key]
}

run "a_subnet_without_a_vpc" {
  command = plan
  variables {
    function_subnet_ids = ["subnet-01234567"]
  }
  expect_failures = [var.function_subnet_ids]
}

run "values_that_the_template_would_refuse" {
  command = plan
  variables {
    name                  = "1-orders"
    architecture          = "amd64"
    database_arns         = ["arn:aws:rds:eu-west-1:123456789012:snapshot:orders"]
    alarm_topic_arn       = "alarms"
    poll_interval_seconds = 61
    allowed_cidrs         = ["10.0.1.0"]
    allowed_hostnames     = ["a b"]
    dns_servers           = ["ns.example.com"]
    log_retention_days    = 2
    kms_key_arn           = "alias/logs"
    vpc_id                = "orders"
    bindings = {
      orders = {
        hostname         = "orders"
        target_group_arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/net/orders/0123456789abcdef"
      }
    }
  }
  expect_failures = [
    var.name,
    var.architecture,
    var.database_arns,
    var.alarm_topic_arn,
    var.poll_interval_seconds,
    var.allowed_cidrs,
    var.allowed_hostnames,
    var.dns_servers,
    var.log_retention_days,
    var.kms_key_arn,
    var.vpc_id,
    var.bindings,
  ]
}

run "a_binding_that_the_function_would_refuse" {
  command = plan
  variables {
    bindings = {
      orders = {
        hostname                 = "orders.example.com"
        target_group_arn         = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders/0123456789abcdef"
        port                     = 65536
        ownership                = "mine"
        deregister_after_seconds = -1
        lookups                  = 51
      }
    }
  }
  expect_failures = [var.bindings]
}
